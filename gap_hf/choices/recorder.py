"""``Recorder`` counts a gap optimizer's choices for logs and writes the choices file, in Trainer or in any loop."""

import logging
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import nn

from ..candidate import Candidate
from ..optim.decision import Decision
from ..optim.find import find_gap_optimizer
from ..optim.rules import TYPES
from ..optim.rules.best import Best
from ..optim.rules.mix import BY_SCORE
from .digits import MOST_CANDIDATES
from .dominance import Dominance
from .format import FILENAME, Header, HeaderGroup
from .margin import margin
from .naming import parameter_names
from .writer import ChoiceWriter

logger = logging.getLogger(__name__)

WAITING = 100
"""Steps whose choices may wait on an accelerator to be brought to the host."""

PAIRS = 8
"""How many times between two logs the gradients of successive steps are compared."""


class Recorder:
    """Counts choices between two logs, and hands each step to the choices file.

    On an accelerator the choices stay there until they are logged or saved, because the host would have to wait for the
    device to fetch them at every step. All processes may have a recorder, or only some of them: the choices are the
    same on all, and a recorder never communicates.

    If the file can't be written (a full disk, a deleted directory, more candidates than it can hold), the recorder
    warns and gives it up; the loop goes on.

    Args:
        optimizer: a gap optimizer, or Accelerate's or DeepSpeed's wrapper of one.
        model: the model whose parameters the optimizer steps, wrapped or not.
        output_dir: the directory of the choices file.
        start: how many steps had been taken when this run was resumed.
        record: whether to write the file; true on one process only.
        per_group: whether ``summary`` has the values of each parameter group, too.

    Raises:
        TypeError: there is no gap optimizer inside ``optimizer``.
        ValueError: the optimizer's ``type`` is ``'default'``, so there is no choice to record.

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
        self,
        optimizer: Any,
        model: nn.Module,
        output_dir: str | Path,
        start: int = 0,
        record: bool = True,
        per_group: bool = False,
    ) -> None:
        found = find_gap_optimizer(optimizer)
        if found is None:
            raise TypeError(f"{type(optimizer).__qualname__} is not a gap optimizer, nor does it wrap one")
        if found.type == "default":
            raise ValueError("type='default' chooses nothing; there is nothing to record")
        self.optimizer, self.model = found, model
        self.record, self.per_group = record, per_group
        self.path, self.start = Path(output_dir) / FILENAME, start
        # Trainer may make a group without parameters, which DeepSpeed drops: all layouts show the others only
        self.kept = [g for g, group in enumerate(found.param_groups) if group["count"]]
        self.counts = [group["count"] for group in self.groups()]
        rule, self.per_parameter = TYPES[found.type]
        self.mixes, self.picks_best = rule is not None and rule.mixes, rule is Best
        self.constant: list[np.ndarray | None] = []
        self.candidates = [found.candidate_list(group) for group in self.groups()]
        self.names: list[list[str]] = []
        self.writer: ChoiceWriter | None = None
        self.seen = found.steps_taken
        self.waiting: list[tuple[int, Decision]] = []
        # a run's first step has none before it
        self.previous = self.choices(found.decision()) if start else None
        self.warned = self.closed = False
        speaks = self.picks_best and (record or is_first_process())
        self.dominance = Dominance(self.candidates, self.counts, found.candidate_name, speaks)
        self.clear()
        most = max(map(len, self.candidates), default=0)
        if record and most > MOST_CANDIDATES:
            self.record = False
            logger.warning(
                "the choices file holds up to %d candidates, and this optimizer has %d: the choices are not recorded. "
                "Training goes on, and the logs have the shares.",
                MOST_CANDIDATES,
                most,
            )

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
        """The choices of the groups that have parameters: one each if it is one for all, else one per parameter."""
        return [decision.choices[g].cpu().numpy() for g in self.kept]

    def constant_weights(self, group: dict[str, Any]) -> np.ndarray | None:
        """The constant weights of a mix, which are the same at every step; None if they follow the scores."""
        if group["weights"] == BY_SCORE:
            return None
        return np.array(group["last_weights"][0] if self.per_parameter else group["last_weights"])

    def clear(self) -> None:
        """Start counting anew."""
        self.weighed = [np.zeros(len(candidates)) for candidates in self.candidates]
        self.optimizer.gradient_correlation.measure(PAIRS)
        self.chosen = [np.zeros(len(candidates), dtype=np.int64) for candidates in self.candidates]
        self.changed = [0 for _ in self.kept]
        self.resets = [0 for _ in self.kept]
        self.not_counted = [0 for _ in self.kept]
        self.skipped = 0

    def add(self, step: int) -> None:
        """Take in the optimizer's latest step. Call it once for each step, also if the loss scaler skipped it."""
        if self.optimizer.steps_taken == self.seen:
            self.skipped += 1
            return
        if self.closed:
            raise ValueError("this recorder is closed; to go on, build another with start=, the steps taken so far")
        self.seen = self.optimizer.steps_taken
        if self.mixes and not self.constant:
            # only now: a step takes weights that are not those of the checkpoint
            self.constant = [self.constant_weights(group) for group in self.groups()]
        if self.record and not self.names:
            # only now: the step has found out how parameters lie over processes, which takes all of them together
            names = parameter_names(self.optimizer, self.model)
            self.names = [names[g] for g in self.kept]
        decision = self.optimizer.decision()
        self.waiting.append((step, decision))
        on_host = all(choice.device.type == "cpu" for choice in decision.choices)
        if on_host or len(self.waiting) >= WAITING:
            self.settle()

    def settle(self) -> None:
        """Count and write the steps that are still waiting."""
        waiting, self.waiting = self.waiting, []
        for step, decision in waiting:
            self.count(step, decision)

    def count(self, step: int, decision: Decision) -> None:
        """Add one step's choices to the counts, and write them."""
        choices, weights = self.choices(decision), self.weights(decision)
        together = not self.per_parameter
        for g, (before, after) in enumerate(zip(self.previous or choices, choices, strict=True)):
            times = self.counts[g] if together else 1
            self.chosen[g] += times * np.bincount(after.reshape(-1), minlength=len(self.candidates[g]))
            self.changed[g] += times * int((after != before).sum())
            if weights:
                self.weighed[g] += times * weights[g].reshape(-1, len(self.candidates[g])).sum(axis=0)
        # groups counted among those that have parameters
        resets = [(self.kept.index(g), i) for g, i in decision.reset_parameters()]
        reset = [g for g, _ in resets]
        for g in set(reset) if together else reset:
            self.resets[g] += 1
        self.count_what_did_not_count(step, decision)
        self.previous = choices
        self.dominance.count(step, choices)
        if self.record:
            self.write(step, decision, choices, resets)

    def weights(self, decision: Decision) -> list[np.ndarray]:
        """The weights of the groups that have parameters, if there is a mix: ``(K,)`` or ``(P, K)``."""
        if not self.mixes:
            return []
        if not decision.weights:
            return [
                np.tile(row, (count, 1)) if self.per_parameter else row
                for row, count in zip(self.constant, self.counts, strict=True)
                if row is not None
            ]
        return [decision.weights[g].cpu().numpy() for g in self.kept]

    def count_what_did_not_count(self, step: int, decision: Decision) -> None:
        """Count the scores that were not finite, and warn the first time there are any."""
        found = decision.not_counted()
        here = [found[g] for g in self.kept]
        if not any(here):
            return
        self.not_counted = [total + one for total, one in zip(self.not_counted, here, strict=True)]
        if self.warned or not (self.record or is_first_process()):
            return
        self.warned = True
        whose = f"{sum(here)} of {sum(self.counts)} gradients" if self.per_parameter else "the gradients"
        logger.warning(
            "step %d: %s held NaN or infinity, or overflowed in the score. Such a step is not counted: the choice "
            "before it stands. gap/not_counted in the logs counts them; this warning is given once. Trainer shows "
            "a NaN loss as 0 (logging_nan_inf_filter).",
            step,
            whose,
        )

    def write(self, step: int, decision: Decision, choices: list[np.ndarray], resets: list[tuple[int, int]]) -> None:
        """Write one step to the file."""
        scores = decision.scores.tolist() if decision.scores is not None else None
        marks = [list(pair) for pair in resets] if self.per_parameter else bool(resets)
        margins = None
        if self.per_parameter and not self.mixes and len(self.candidates[0]) > 1:
            found = decision.scores_by_parameter()
            margins = [margin(found[g].numpy(), chosen) for g, chosen in zip(self.kept, choices, strict=True)]
        try:
            if self.writer is None:
                self.writer = ChoiceWriter(self.path, self.header())
            weights = self.weights(decision) if decision.weights else None
            self.writer.write(step, choices, marks, scores, margins, weights)
        except OSError as error:
            self.give_up(f"step {step}", error)

    def header(self) -> Header:
        """The header that begins this run's lines."""
        constant = [None if row is None else row.tolist() for row in self.constant] or [None] * len(self.kept)
        groups = [HeaderGroup(*all_of) for all_of in zip(self.candidates, self.names, constant, strict=True)]
        return Header(self.start, self.optimizer.type, self.optimizer.candidate_name, groups)

    def give_up(self, when: str, error: OSError) -> None:
        """Stop recording, with a warning; training goes on."""
        self.record = False
        logger.warning(
            "%s: the choices can't be written to %s (%s). Training goes on without recording them; what was written "
            "before stays readable. Free space there, or use another output_dir; GapCallback(record=False) or "
            "Recorder(record=False) does without the file.",
            when,
            self.path,
            error.strerror or error,
        )
        self.close_file()

    def check_file(self, when: str) -> None:
        """Give the file up if it has been deleted meanwhile."""
        if self.writer is None:
            return
        try:
            self.writer.check()
        except OSError as error:
            self.give_up(when, error)

    def close_file(self) -> None:
        """Close the file, if it is open."""
        if self.writer is not None:
            with suppress(OSError):  # everything has been handed over by now
                self.writer.close()
            self.writer = None

    def summary(self) -> dict[str, float]:
        """Return the logged values of the steps since the last call."""
        self.settle()
        self.check_file("at a log")
        groups = [g for g, chosen in enumerate(self.chosen) if chosen.any()]
        values = self.describe("gap/", groups) if groups else {}
        if self.per_group and len(groups) > 1:
            for g in groups:
                values |= self.describe(f"gap/group{g}/", [g])
        correlation = self.optimizer.gradient_correlation.result()
        if values and correlation is not None:
            values["gap/correlation"] = round(correlation, 6)
        if self.skipped:
            values["gap/skipped"] = self.skipped
        self.clear()
        return values

    def describe(self, prefix: str, groups: list[int]) -> dict[str, float]:
        """Return the logged values of some groups; there is no mean if a candidate has no value."""
        applied: dict[Candidate, float] = {}
        for g in groups:
            of_group = self.weighed[g] if self.mixes else self.chosen[g]
            for candidate, amount in zip(self.candidates[g], of_group.tolist(), strict=True):
                applied[candidate] = applied.get(candidate, 0) + amount
        total = sum(int(self.chosen[g].sum()) for g in groups)
        weighted = [candidate.value * amount for candidate, amount in applied.items() if candidate.value is not None]
        mean = round(sum(weighted) / total, 6) if len(weighted) == len(applied) else None
        shares: dict[str, float] = {}
        for candidate, amount in applied.items():
            key = f"{prefix}{'weight' if self.mixes else 'share'}_{candidate.label.replace('/', '_')}"
            shares[key] = shares.get(key, 0) + amount
        # one choice for all resets all groups at once, and its one score counts or does not count for all
        together = sum if self.per_parameter else max
        not_counted = together(self.not_counted[g] for g in groups)
        return {
            **({prefix + self.optimizer.candidate_name: mean} if mean is not None else {}),
            **{key: round(amount / total, 6) for key, amount in shares.items()},
            prefix + "dominance": round(max(shares.values()) / total, 6),
            prefix + "changed": round(sum(self.changed[g] for g in groups) / total, 6),
            prefix + "resets": together(self.resets[g] for g in groups),
            **({prefix + "not_counted": not_counted} if not_counted else {}),
        }

    def close(self) -> None:
        """Write the steps that are still waiting, and close the file. After that, nothing can be added."""
        self.settle()
        self.check_file("at the end")
        self.close_file()
        self.closed = True


def is_first_process() -> bool:
    """Whether this is the process that warns on behalf of all."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
