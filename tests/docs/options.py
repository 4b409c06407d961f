"""The table of docs/options.md, from the options as they are declared: python -m tests.docs.options"""

import inspect
import re

from gap_hf.optim.families import OPTIMIZERS
from gap_hf.trainer.optim_args import OWNED_BY_TRAINER

from ..tiny import ROOT

PAGE = ROOT / "docs" / "options.md"
BEGIN, END = "<!-- the table: python -m tests.docs.options -->\n", "<!-- end of the table -->\n"
RESUMED = {"checkpoint": "the checkpoint's", "run": "the run's", "run, same type": "the run's"}


def in_markdown(text: str) -> str:
    """A docstring's text as Markdown."""
    return text.replace("``", "`").replace("`docs/speed.md`", "[which one](speed.md#which-kernel-does-the-step)")


def default(parameter: inspect.Parameter) -> str:
    """What the constructor takes if it is given nothing."""
    return "must be given" if parameter.default is inspect.Parameter.empty else f"`{parameter.default!r}`"


def table() -> str:
    """The rows: what each key is, in which optimizers, with which default, and whose value a resumed run takes."""
    known: dict[str, dict[str, list[str]]] = {}  # by key and text, the optimizers
    for name, optimizer in OPTIMIZERS.items():
        for key, (option, _) in optimizer.options.items():
            if key not in OWNED_BY_TRAINER and key != "differentiable":
                known.setdefault(key, {}).setdefault(option.text, []).append(name)
    rows = ["| key | what it is | values | default | resumed with |", "|---|---|---|---|---|"]
    for key, texts in known.items():
        for text, names in texts.items():
            option = OPTIMIZERS[names[0]].options[key].option
            values = f"`{option.example}`" if option.example else option.expected
            defaults = {name: default(OPTIMIZERS[name].options[key].parameter) for name in names}
            everywhere = len(set(defaults.values())) == 1 and names == list(OPTIMIZERS)
            shown = defaults[names[0]] if everywhere else ", ".join(f"{n} {value}" for n, value in defaults.items())
            rows.append(
                f"| `{key}` | {in_markdown(text.rstrip('.'))} | {values} | {shown} | {RESUMED[option.resumed]} |"
            )
    return "\n".join(rows) + "\n"


def current(page: str) -> str:
    """``page`` with the table as it is now."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: BEGIN + table() + END, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
