"""What gap_hf refuses. Each refusal is written once: the running optimizer, ``gap-hf doctor`` and the docs read it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Refusal(NamedTuple):
    """A setting under which GAP would not choose like one process, or under which this has not been tested.

    The first three attributes are Markdown, for the docs; elsewhere they are shown without marks.

    Attributes:
        setting: the setting's name, as in the configuration if it has one there.
        why: the reason, a clause in lower case.
        instead: the remedy, an imperative in lower case.
        in_running: tells from objects of the running program whether they have the setting. Whoever raises the error
            decides which objects these are. None if they don't show it.
        in_config: tells from a configuration whether it has the setting. It is given what the backend itself reads
            (DeepSpeed's JSON file, accelerate's ``fsdp_config``), or accelerate's config file for what accelerate
            decides. None if no configuration shows it.
    """

    setting: str
    why: str
    instead: str
    in_running: Callable[..., bool] | None = None
    in_config: Callable[[Mapping[str, Any]], bool] | None = None

    def is_running(self, *running: Any) -> bool:
        """Whether the running objects show the setting."""
        return self.in_running is not None and bool(self.in_running(*running))

    def is_configured(self, config: Mapping[str, Any]) -> bool:
        """Whether ``config`` shows the setting."""
        return self.in_config is not None and bool(self.in_config(config))

    @property
    def name(self) -> str:
        """The setting's name, without marks."""
        return plain(self.setting)

    @property
    def advice(self) -> str:
        """The reason and the remedy in one line."""
        return plain(f"{self.why}; {self.instead}")

    def message(self, found: str = "") -> str:
        """The text of an error: what was ``found`` (by default the setting), the reason and the remedy."""
        return f"{found or self.name}: {plain(self.why)}. {self.remedy}"

    @property
    def remedy(self) -> str:
        """The remedy, as a sentence."""
        text = plain(self.instead)
        return f"{text[0].upper()}{text[1:]}."


def plain(text: str) -> str:
    """Return ``text`` without the marks around code."""
    return text.replace("`", "")


def configured(refusals: Iterable[Refusal], config: Mapping[str, Any]) -> list[Refusal]:
    """Return the refusals that ``config`` shows."""
    return [refusal for refusal in refusals if refusal.is_configured(config)]
