"""``Recorder``: counts what a gap optimizer chose, for logs, and writes the choices file; in Trainer or in any loop."""

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import nn

from ..inspection import find_gap_optimizer, parameter_names
from ..optim.step import Decision
from .record import FILENAME, ChoiceWriter

WAITING = 100
"""Steps whose choices may wait on an accelerator to be brought to the host."""


class Recorder:
    """Counts choices between two logs, and hands each step to the choices file.

    On an accelerator the choices stay there until they are logged or saved: to fetch them at every step would make the
    host wait for the device at every step. Every process may have one; choices are the same on all.

    Args:
        optimizer: a gap optimizer, or a wrapper of one (Accelerate's, DeepSpeed's).
        model: whose parameters it steps, wrapped or not.
        output_dir: where the choices file goes.
        start: steps that were taken before this run resumed.
        record: write the file; say so on one process only.

    Raises:
        TypeError: there is no gap optimizer inside ``optimizer``.
        ValueError: its ``type`` is ``'default'``: there is no choice to record.

    Example:
        .. code-block:: python

            with gap_hf.Recorder(optimizer, model, "runs/loop", record=accelerator.is_main_process) as recorder:
                for step, batch in enumerate(loader, 1):
                    ...
                    optimizer.step()
                    recorder.add(step)
                    if step % 10 == 0:
                        print(recorder.summary())
    """

    def __init__(
        self, optimizer: Any, model: nn.Module, output_dir: str | Path, start: int = 0, record: bool = True
    ) -> None:
        found = find_gap_optimizer(optimizer)
        if found is None:
            raise TypeError(f"{type(optimizer).__qualname__} is not a gap optimizer, nor does it wrap one")
        if found.type == "default":
            raise ValueError("type='default' chooses nothing; there is nothing to record")
        self.optimizer = found
        self.record = record
        self.path, self.start = Path(output_dir) / FILENAME, start
        names = parameter_names(found, model)
        # Trainer may make a group without parameters, which DeepSpeed drops: all layouts show the others only
        self.kept = [g for g, group in enumerate(names) if group]
        self.names = [names[g] for g in self.kept]
        self.writer: ChoiceWriter | None = None
        self.seen = found.steps_taken
        self.waiting: list[tuple[int, Decision]] = []
        # a run's first step has none before it
        self.previous = self.choices(found.decision()) if start else None
        self.labels = [found.candidate_labels(group) for group in self.groups()]
        self.clear()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def groups(self) -> list[dict[str, Any]]:
        """The groups that have parameters."""
        return [self.optimizer.param_groups[g] for g in self.kept]

    def choices(self, decision: Decision) -> list[np.ndarray]:
        """The choice of every parameter, group by group."""
        last = [decision.choices[g].cpu().numpy() for g in self.kept]
        return [np.broadcast_to(choice, len(names)) for choice, names in zip(last, self.names, strict=True)]

    def clear(self) -> None:
        """Count from here."""
        self.chosen = [np.zeros(len(labels), dtype=np.int64) for labels in self.labels]
        self.changed = [0 for _ in self.labels]
        self.resets = [0 for _ in self.labels]

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
        """Take one step's choices into the counts, and write them."""
        now = self.choices(decision)
        for g, (before, after) in enumerate(zip(self.previous or now, now, strict=True)):
            self.chosen[g] += np.bincount(after, minlength=len(self.labels[g]))
            self.changed[g] += int((after != before).sum())
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
        last = [decision.choices[g].cpu().numpy() for g in self.kept]
        scores = decision.scores.tolist() if switch and decision.scores is not None else None
        marks = bool(resets) if switch else [list(pair) for pair in resets]
        margins = None
        if not switch and len(self.labels[0]) > 1:
            found = decision.margins()
            margins = [found[g] for g in self.kept]
        self.writer.write(step, last, marks, scores, margins)

    def summary(self) -> dict[str, float]:
        """The logged values since the last call."""
        self.settle()
        groups = [g for g, chosen in enumerate(self.chosen) if chosen.any()]
        values = self.describe("gap/", groups) if groups else {}
        if len(groups) > 1:
            for g in groups:
                values |= self.describe(f"gap/group{g}/", [g])
        self.clear()
        return values

    def describe(self, prefix: str, groups: list[int]) -> dict[str, float]:
        """The logged values of some groups."""
        chosen: Counter[str] = Counter()
        for g in groups:
            chosen.update(dict(zip(self.labels[g], self.chosen[g].tolist(), strict=True)))
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
        """Write what still waits, and close the file."""
        self.settle()
        if self.writer is not None:
            self.writer.close()
