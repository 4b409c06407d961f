"""``Family``: the arithmetic of one kind of optimizer, in plain tensors.

A family knows nothing of processes, devices, checkpoints or Trainer. It says which options it has and what they mean,
which buffers a parameter needs, and how a step is computed in *rounds*. In each round it observes the gradients and
hands out partial sums, which it gets back added up over everything that takes part. The last sums give the candidates'
scores; then the family applies what was chosen. Its caller does the adding up: one all-reduce for each round, whatever
the number of parameters and groups.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..candidate import Candidate
from .arithmetic.operations import Operations
from .rules import TYPES
from .work import Buffer, Work


class Grain(IntEnum):
    """The finest cut of a parameter that a family can work on.

    Single elements; pieces, if it gets the gradients of the whole parameters with them; nothing less than the whole;
    all parameters together.
    """

    ELEMENT = 0
    GRADIENT = 1
    PARAMETER = 2
    MODEL = 3


class Round(NamedTuple):
    """A reduction that a family needs before it can score or apply.

    Attributes:
        over: ``"parameter"`` adds up the fragments of each parameter, ``"model"`` all fragments of all groups;
            ``"vectors"`` adds up a vector for each parameter, of a length of its own.
        width: how many numbers each fragment contributes: of vectors, a function of the whole parameter's shape.
    """

    over: Literal["parameter", "model", "vectors"]
    width: int | Callable[[torch.Size], int]


class Option(NamedTuple):
    """One option of an optimizer; the constructor has its name, type and default.

    Attributes:
        text: what it does, in a clause or two.
        good: tells whether a value is allowed, as far as it can without the other options; None leaves that to the
            family's ``check``.
        expected: the allowed values, in words.
        example: how the option is written in ``optim_args``, where that is not obvious.
        read: turns the text in ``optim_args`` into the value; None reads it as the constructor's annotation says.
        resumed: whether a resumed run takes the checkpoint's value or its own; ``"run, same type"`` takes the run's if
            the checkpoint has the same ``type``.
        shared: whether all groups must agree on the value if one choice is made for them all.
    """

    text: str
    good: Callable[[Any], bool] | None = None
    expected: str = ""
    example: str = ""
    read: Callable[[str], Any] | None = None
    resumed: Literal["checkpoint", "run", "run, same type"] = "checkpoint"
    shared: bool = False


class Family(ABC):
    """The arithmetic of one kind of optimizer. A family has no state of its own: what it keeps is in buffers.

    Attributes:
        name: the family's name in files and messages.
        candidate_name: what a candidate's value is called in logs.
        candidate_option: the option that lists the candidates.
        grain: what it needs of a parameter.
        options: its own options, beside those that all families have, by name.
        rounds: the reductions before the last one, which the scores are made of. ``observe`` is called once for each,
            and once more.
        placed: whether it must know where fragments lie in their parameters.
        together: whether it takes all that arrives at once, in ``begin``, and no kernel divides a group.
        fused: kernels that do the same faster, by the type of device.
        examples: options that the fused kernels are checked with before they are used.
        grid: usual values of a single candidate, for a sweep over them.
    """

    name: ClassVar[str]
    candidate_name: ClassVar[str]
    candidate_option: ClassVar[str]
    grain: ClassVar[Grain] = Grain.ELEMENT
    options: ClassVar[Mapping[str, Option]]
    rounds: ClassVar[tuple[Round, ...]] = ()
    placed: ClassVar[bool] = False
    together: ClassVar[bool] = False
    fused: ClassVar[Mapping[str, Any]] = {}
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    grid: ClassVar[tuple[float, ...]] = ()

    # ------------------------------------------------------------------ what the options mean
    @abstractmethod
    def parse(self, options: Mapping[str, Any]) -> list[Any]:
        """Read the K candidates from ``candidate_option`` as the arithmetic takes them. Raises ValueError."""

    @abstractmethod
    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        """The K candidates as the rest of the program knows them."""

    def check(self, options: Mapping[str, Any]) -> None:  # noqa: B027
        """Raise ValueError if options of the family contradict each other."""

    @abstractmethod
    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        """What is kept for each parameter: something, unless ``TorchsDefault`` does without."""

    @abstractmethod
    def numbers(self, options: Mapping[str, Any]) -> Any:
        """What a step needs of the options: a named tuple, in which ``lr`` alone depends on the learning rate.

        They are read again when an option that they came from has changed. Fused kernels read ``lr``, ``gains`` and
        ``modulation`` (K factors of scores and of steps), ``l2``, ``soft_reset``, ``maximize`` and ``stochastic``
        (whether to round compact buffers stochastically).
        """

    def from_training_arguments(  # noqa: B027
        self, options: dict[str, Any], given: Mapping[str, Any], adam: Mapping[str, float]
    ) -> None:
        """Complete ``options`` from those ``TrainingArguments`` that are neither learning rate nor decay.

        Args:
            options: the constructor's options, changed in place.
            given: those among them that the user gave.
            adam: ``beta1``, ``beta2`` and ``epsilon`` of the fields ``adam_*``.
        """

    def ignored_training_arguments(self, options: Mapping[str, Any]) -> list[str]:
        """List ``TrainingArguments`` that have no effect, though a user may think that they set the candidates."""
        return []

    def grain_of(self, options: Mapping[str, Any]) -> Grain:
        """Return what it needs of a parameter with these options."""
        return self.grain

    def needing_wholes(self, options: Mapping[str, Any]) -> str:
        """Say what of it needs more than elements with these options, for a message."""
        return f"the {self.name} family"

    def not_in_eight_bits(self, options: Mapping[str, Any]) -> str:
        """Say why the moments can't be stored in 8 bits with these options, for a message."""
        return f"is for Adam and AdamW, whose first moments are bounded by their second ones; {self.name} has no bound"

    # ------------------------------------------------------------------ a step
    def begin(self, works: Sequence[Work]) -> None:  # noqa: B027
        """Do what must be done with all groups that arrived at once, before they are observed one by one.

        If the family takes them ``together``, groups without any gradient are among them, with nothing in their works.
        """

    @abstractmethod
    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        """Take one round: update the buffers, and return the partial sums over each fragment.

        Args:
            ops: torch's operations, on lists or one by one.
            work: the fragments.
            answers: the sums of the rounds before, added up: ``(N, width)`` over whole parameters, ``(width,)`` over
                the model, or a list of N vectors. Their number says which round this is.

        Returns:
            ``(N, width)`` float64, or a list of N vectors. In the last round ``(N, S)``, as ``Scored.scores`` reads
            them; ``(N, 0)`` if ``work.scored`` is false.
        """

    @abstractmethod
    def apply(self, ops: Operations, work: Work, answers: list[Tensor], candidate: int) -> None:
        """Decay, and take the step of ``candidate`` for all fragments of ``work``; soft resets come after.

        Args:
            ops: torch's operations.
            work: what ``observe`` was handed.
            answers: the sums of the rounds before the scores.
            candidate: the index of the candidate.
        """


class Scored(Family):
    """A family that can choose: its last sums give each candidate a score, and it can mix the candidates' updates."""

    @abstractmethod
    def decays(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the K candidates' decay rates of the first moment."""

    @abstractmethod
    def mix(self, ops: Operations, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]]) -> None:
        """Do what ``apply`` does, with a weighted sum of the candidates' updates, each at equal gain.

        Args:
            ops: torch's operations.
            work: what ``observe`` was handed.
            answers: the sums of the rounds before the scores.
            weights: for each of the N fragments K weights that add up to 1.
        """

    @abstractmethod
    def sums(self, numbers: Any) -> int:
        """Return S, the number of each fragment's sums that the scores are made of."""

    @abstractmethod
    def scores(self, numbers: Any, sums: Tensor, numel: Tensor) -> Tensor:
        """Compute J of each candidate.

        Args:
            numbers: the group's numbers.
            sums: ``(P, S)`` float64, sums over whole parameters.
            numel: ``(P,)`` float64, the parameters' element counts.

        Returns:
            ``(P, K)`` float64; 0 for a parameter without elements.
        """


class TorchsDefault(Family):
    """A family whose ``type='default'`` is torch's own function. Otherwise the rounds do it, with one candidate.

    Attributes:
        of_torch: the options in a group of torch's optimizer, with their defaults.
        shared_with_torch: those that mean the same in both, and go from one to the other with a state.
        moments_of_torch: the names of torch's buffers.
    """

    of_torch: ClassVar[Mapping[str, Any]]
    shared_with_torch: ClassVar[tuple[str, ...]]
    moments_of_torch: ClassVar[tuple[str, ...]]

    @abstractmethod
    def from_torch(
        self, group: Mapping[str, Any], saved: Mapping[str, Any], found: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the state that a parameter begins with, made from its state in torch's optimizer.

        Args:
            group: the group that it is for.
            saved: its group in torch's optimizer.
            found: its state there, which is not changed.

        Raises:
            ValueError: torch's optimizer did something that has no counterpart here.
        """

    @abstractmethod
    def kept(self, options: Mapping[str, Any]) -> list[int]:
        """Return the candidates that keep a first moment: those whose moment is not the gradient itself."""

    @abstractmethod
    def memories(self, options: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
        """Return what each buffer is an average of and its decay rate: where both are equal, so are the buffers."""

    @abstractmethod
    def group_for_torch(self, group: Mapping[str, Any], chosen: int) -> dict[str, Any]:
        """Return the options that are a candidate's, as torch's optimizer has them."""

    @abstractmethod
    def to_torch(self, group: Mapping[str, Any], found: Mapping[str, Any], mine: int, chosen: int) -> dict[str, Any]:
        """Return the state that torch's optimizer begins with.

        Args:
            group: the parameter's group.
            found: its state, which is not changed.
            mine: the candidate whose moments these are to be.
            chosen: the candidate whose decay rates torch's optimizer has.
        """

    @abstractmethod
    def default_step(self, work: Work, group: Mapping[str, Any]) -> None:
        """Take the whole step of ``type='default'``.

        Args:
            work: the fragments.
            group: the group, with the flags that torch's function takes.
        """


def modulation(options: Mapping[str, Any], powers: Sequence[float], gains: Sequence[float]) -> tuple[float, ...]:
    """Each candidate's factor on the learning rate.

    Args:
        options: the group's options.
        powers: nu, the factors that give each candidate's step unit power: ``lr_modulation`` divides them by the first.
        gains: the factors that bring all candidates to the same gain for a constant gradient, which a mix always does.
    """
    way, rule = options["lr_modulation"], TYPES[options["type"]].rule
    if way == "dc" or (rule is not None and rule.mixes):
        return tuple(gains)
    return tuple(power / powers[0] if way else 1.0 for power in powers)
