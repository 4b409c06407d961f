"""``GapCallback``: what the optimizer chose, in Trainer's logs and in the choices file."""

from collections import Counter
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..inspection import find_gap_optimizer, parameter_names
from ..optim import GapOptimizer
from ..optim.step import Decision
from .presets import PRESETS
from .record import FILENAME, ChoiceWriter


class GapCallback(TrainerCallback):
    """Log a gap optimizer's choices and write them to ``output_dir``.

    Trainer gets one by itself once ``gap_hf`` is imported; add one only to change its options. It does nothing
    where the optimizer is another, or its ``type`` is ``'default'`` (there is no choice to show).

    At ``logging_steps`` it adds, over the steps since the last log:

    * ``gap/beta1`` (or ``gap/momentum``): the mean of the chosen candidates over parameters and steps,
    * ``gap/share_0.8``, ...: the share of each candidate,
    * ``gap/changed``: the share of choices that differ from the step before,
    * ``gap/resets``: soft resets, counted per parameter (for ``'switch'`` per step),

    and, where more than one parameter group has parameters, the same under ``gap/group0/``, ``gap/group1/``, ...
    (groups without parameters are not counted).

    Args:
        record: write the choices file (rank 0 only).
    """

    def __init__(self, record: bool = True) -> None:
        self.record = record
        self.tally: Tally | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.tally = None
        optimizer = find_gap_optimizer(kwargs.get("optimizer"))
        if optimizer is None:
            if getattr(args.optim, "value", args.optim) in PRESETS:
                refuse_another_optimizer(args, kwargs.get("optimizer"))
            return
        optimizer.layout()  # a layout that can't be exact is refused before the first batch
        if optimizer.type == "default":
            return
        # Trainer's own instance comes before the trackers, one that the user added after them: the first one works,
        # the others only hand it their options.
        owner = optimizer.callback
        if owner is not None and owner is not self and owner.tally is not None:
            owner.tally.record &= self.record
            return
        optimizer.callback = self
        path = Path(args.output_dir or ".") / FILENAME
        record = self.record and state.is_world_process_zero
        self.tally = Tally(optimizer, parameter_names(optimizer, kwargs["model"]), path, state.global_step, record)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.tally is not None:
            self.tally.add(state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.tally is not None:
            self.tally.settle()  # a checkpoint has a choices file up to its step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # evaluation and the end-of-run summary log too; the choices belong to the training loss
        if self.tally is None or not logs or "loss" not in logs:
            return
        values = self.tally.summary()
        logs.update(values)  # the trackers come after us and see these
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(values)  # Trainer put a copy there before it called us

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.tally is not None:
            self.tally.close()
            self.tally = None


class DefaultGapCallback(GapCallback):
    """What Trainer gets by itself; its own class, so that adding a ``GapCallback`` is not taken for a duplicate."""


WAITING = 100
"""Steps whose choices may wait on an accelerator to be brought to the host."""


class Tally:
    """Counts choices between two logs, and hands each step to the choices file.

    On an accelerator the choices stay there until they are logged or saved: to fetch them at every step would make the
    host wait for the device at every step.
    """

    def __init__(self, optimizer: GapOptimizer, names: list[list[str]], path: Path, start: int, record: bool) -> None:
        self.optimizer = optimizer
        self.record = record
        self.path, self.start = path, start
        # Trainer may make a group without parameters, which DeepSpeed drops: all layouts show the others only
        self.kept = [g for g, group in enumerate(names) if group]
        self.names = [names[g] for g in self.kept]
        self.writer: ChoiceWriter | None = None
        self.seen = optimizer.steps_taken
        self.waiting: list[tuple[int, Decision]] = []
        # a run's first step has none before it
        self.previous = self.choices(optimizer.decision()) if start else None
        self.labels = [optimizer.candidate_labels(group) for group in self.groups()]
        self.clear()

    def groups(self) -> list[dict[str, Any]]:
        """The groups that have parameters."""
        return [self.optimizer.param_groups[g] for g in self.kept]

    def choices(self, decision: Decision) -> list[list[int]]:
        """The choice of every parameter, group by group."""
        last = decision.last_choice()
        chosen = [(last[g], len(names)) for g, names in zip(self.kept, self.names, strict=True)]
        return [[c] * n if isinstance(c, int) else c for c, n in chosen]

    def clear(self) -> None:
        groups = range(len(self.names))
        self.chosen: list[Counter[str]] = [Counter() for _ in groups]
        self.changed = [0 for _ in groups]
        self.resets = [0 for _ in groups]

    def add(self, step: int) -> None:
        """Take in the optimizer's latest step, if it took one (a skipped fp16 step leaves no trace)."""
        if self.optimizer.steps_taken == self.seen:
            return
        self.seen = self.optimizer.steps_taken
        decision = self.optimizer.decision()
        self.waiting.append((step, decision))
        on_host = all(choice.device.type == "cpu" for choice in decision.choices)
        if on_host or len(self.waiting) >= WAITING:
            self.settle()

    def settle(self) -> None:
        """Count and write the steps that wait."""
        waiting, self.waiting = self.waiting, []
        for step, decision in waiting:
            self.count(step, decision)

    def count(self, step: int, decision: Decision) -> None:
        now = self.choices(decision)
        for g, (before, after) in enumerate(zip(self.previous or now, now, strict=True)):
            self.chosen[g].update(self.labels[g][c] for c in after)
            self.changed[g] += sum(a != b for a, b in zip(after, before, strict=True))
        # groups counted among those that have parameters
        resets = [(self.kept.index(g), i) for g, i in decision.reset_parameters()]
        reset = [g for g, _ in resets]
        for g in set(reset) if self.optimizer.type == "switch" else reset:
            self.resets[g] += 1
        self.previous = now
        if self.record:
            self.write(step, decision, resets)

    def write(self, step: int, decision: Decision, resets: list[tuple[int, int]]) -> None:
        switch = self.optimizer.type == "switch"
        if self.writer is None:
            groups = [
                {"candidates": labels, "parameters": names}
                for labels, names in zip(self.labels, self.names, strict=True)
            ]
            header = {
                "start": self.start,
                "type": self.optimizer.type,
                "candidate": self.optimizer.candidate_name,
                "groups": groups,
            }
            self.writer = ChoiceWriter(self.path, header)
        last = decision.last_choice()
        scores = decision.scores.tolist() if switch and decision.scores is not None else None
        marks = bool(resets) if switch else [list(pair) for pair in resets]
        self.writer.write(step, [last[g] for g in self.kept], marks, scores)

    def summary(self) -> dict[str, float]:
        """The logged values since the last call."""
        self.settle()
        groups = [g for g, chosen in enumerate(self.chosen) if chosen]
        values = self.describe("gap/", groups) if groups else {}
        if len(groups) > 1:
            for g in groups:
                values |= self.describe(f"gap/group{g}/", [g])
        self.clear()
        return values

    def describe(self, prefix: str, groups: list[int]) -> dict[str, float]:
        chosen = sum((self.chosen[g] for g in groups), Counter())
        total = chosen.total()
        mean = sum(float(label.split("/")[0]) * count for label, count in chosen.items()) / total
        labels = dict.fromkeys(label for g in groups for label in self.labels[g])
        return {
            prefix + self.optimizer.candidate_name: round(mean, 6),
            **{f"{prefix}share_{label.replace('/', '_')}": round(chosen[label] / total, 6) for label in labels},
            prefix + "changed": round(sum(self.changed[g] for g in groups) / total, 6),
            # 'switch' resets all groups at once
            prefix + "resets": (max if self.optimizer.type == "switch" else sum)(self.resets[g] for g in groups),
        }

    def close(self) -> None:
        self.settle()
        if self.writer is not None:
            self.writer.close()


def refuse_another_optimizer(args: TrainingArguments, optimizer: Any) -> None:
    """Raise: ``optim`` names a gap optimizer, and Trainer uses another."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    name = getattr(args.optim, "value", args.optim)
    raise ValueError(
        f"optim={name} was asked for, but {type(optimizer).__module__}.{type(optimizer).__qualname__} would train. "
        'A DeepSpeed config with an "optimizer" block, Trainer(optimizers=...) and an overridden create_optimizer '
        f"replace it: remove that, or {name} from optim."
    )
