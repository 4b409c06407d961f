"""What a sweep found out, in numbers: losses, the best learning rates, and differences over the same seeds."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..report.compare import LAST
from ..report.paired import Difference, difference
from ..report.run import Run
from .contenders import Contender, Role
from .members import DONE, Member

USUAL = 0.9
"""The beta1 or momentum that most people use, and tune the learning rate for."""


class Measured(NamedTuple):
    """What one run left.

    Attributes:
        training: the mean of its last logged losses.
        evaluation: its last evaluation loss.
        applied: the mean of the candidates that it applied.
        seconds: how long it took.
    """

    training: float | None
    evaluation: float | None
    applied: float | None
    seconds: float


class Outcome:
    """The numbers of a sweep.

    Attributes:
        contenders: the contenders, GAP first.
        lrs: the learning rates in rising order; ``[None]`` if the sweep does not set any.
        seeds: the seeds.
        measured: what the runs left, by contender, learning rate and seed.
    """

    def __init__(self, members: Sequence[Member], runs: Sequence[Run]) -> None:
        self._runs = list(zip(members, runs, strict=True))
        self.contenders = list(dict.fromkeys(member.contender for member in members))
        self.lrs = sorted({member.lr for member in members}, key=lambda lr: lr or 0.0)
        self.seeds = list(dict.fromkeys(member.seed for member in members))
        self.measured: dict[tuple[Contender, float | None], dict[int, Measured]] = {}
        for member, run in self._runs:
            self.measured.setdefault((member.contender, member.lr), {})[member.seed] = measure(member, run)
        evaluated = all(one.evaluation is not None for group in self.measured.values() for one in group.values())
        self._key = "evaluation" if evaluated else "training"
        self._best = {contender: self._find_best_lr(contender) for contender in self.contenders}

    # ------------------------------------------------------------------ losses
    def losses(self, contender: Contender, lr: float | None) -> dict[int, float]:
        """The losses that are compared, by seed: of the evaluations, if every run has one, else of the training.

        A run that has none, because it diverged, say, has an infinite one.
        """
        found = {seed: getattr(one, self._key) for seed, one in self.measured[contender, lr].items()}
        return {seed: loss if loss is not None and math.isfinite(loss) else math.inf for seed, loss in found.items()}

    def loss(self, contender: Contender, lr: float | None) -> float:
        """The mean of these losses over the seeds."""
        return statistics.fmean(self.losses(contender, lr).values())

    def best_lr(self, contender: Contender) -> float | None:
        """The contender's own best learning rate: that of its lowest mean loss."""
        return self._best[contender]

    def _find_best_lr(self, contender: Contender) -> float | None:
        return min(self.lrs, key=lambda lr: self.loss(contender, lr))

    def at_best(self, contender: Contender) -> dict[int, float]:
        """The losses at the contender's own best learning rate, by seed."""
        return self.losses(contender, self.best_lr(contender))

    def best_runs(self) -> list[Run]:
        """The runs at their contenders' best learning rates."""
        return [run for member, run in self._runs if member.lr == self.best_lr(member.contender)]

    def lost(self, contender: Contender) -> bool:
        """Whether it has no loss to compare, at any learning rate."""
        return not math.isfinite(self.loss(contender, self.best_lr(contender)))

    def edge(self, contender: Contender) -> float | None:
        """The learning rate to try next, if the contender's best one is at the edge of the grid."""
        lr = self.best_lr(contender)
        if len(self.lrs) < 2 or lr is None or self.lost(contender) or lr not in (self.lrs[0], self.lrs[-1]):
            return None
        inner = self.lrs[1] if lr == self.lrs[0] else self.lrs[-2]
        return lr * lr / (inner or lr)

    # ------------------------------------------------------------------ who is who
    @property
    def gap(self) -> Contender:
        """The gap optimizer."""
        return self.contenders[0]

    def fixed(self) -> list[Contender]:
        """The fixed values that have a loss."""
        return [contender for contender in self.contenders if contender.fixed and not self.lost(contender)]

    def best_fixed(self) -> Contender | None:
        """The best fixed value, each at its own best learning rate."""
        return min(self.fixed(), key=lambda one: self.loss(one, self.best_lr(one)), default=None)

    def usual(self) -> Contender | None:
        """The fixed 0.9, if it takes part and has a loss."""
        return next((one for one in self.fixed() if one.value == USUAL), None)

    def with_role(self, *roles: Role) -> list[Contender]:
        """The contenders with one of these roles."""
        return [contender for contender in self.contenders if contender.role in roles]

    # ------------------------------------------------------------------ differences
    def between(self, one: Contender, other: Contender) -> Difference | None:
        """One's loss minus the other's, each at its own best learning rate."""
        return difference(self.at_best(one), self.at_best(other))

    def regret(self, contender: Contender) -> Difference | None:
        """Its loss minus that of the best fixed value, each at its own best learning rate; None for that itself."""
        best = self.best_fixed()
        return None if best is None or best == contender else self.between(contender, best)

    def transfer(self, contender: Contender) -> Difference | None:
        """Its loss minus that of the fixed 0.9, both at 0.9's best learning rate; None for 0.9 itself.

        This is what somebody gets who tuned the learning rate for 0.9 and then changes nothing but the optimizer.
        """
        usual = self.usual()
        if usual is None or usual == contender:
            return None
        return difference(self.losses(contender, self.best_lr(usual)), self.at_best(usual))

    def scale(self) -> float | None:
        """How much worse the middle fixed value is than the best: what counts as much here. None for a single value.

        The worst one would be no measure: it may be close to divergence.
        """
        means = [self.loss(contender, self.best_lr(contender)) for contender in self.fixed()]
        return statistics.median(means) - min(means) if len(means) > 1 else None


def measure(member: Member, run: Run) -> Measured:
    """Return what a finished run left."""
    losses = run.curve("loss")[1][-LAST:]
    norms = run.curve("grad_norm")[1][-LAST:]
    if norms and not any(map(math.isfinite, norms)):
        losses = [math.inf]  # Trainer leaves losses that are not finite out of its means, and logs 0
    applied = run.curve(f"gap/{member.candidate}")[1]
    seconds = json.loads((member.directory / DONE).read_text(encoding="utf-8"))["seconds"]
    return Measured(mean(losses), run.last("eval_loss"), mean(applied), seconds)


def mean(values: Sequence[float]) -> float | None:
    """The mean of ``values``; None if there are none."""
    return statistics.fmean(values) if values else None


def by_seed(group: Mapping[int, Measured], key: str) -> list[float] | None:
    """One number of each seed's run; None if one of them has none."""
    values = [getattr(one, key) for one in group.values()]
    return None if None in values else values
