"""GapOver: the candidates are whole optimizers, each of which proposes a step."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...candidate import Candidate
from ..arithmetic.operations import Operations
from ..arithmetic.precision import compute_dtype
from ..family import Grain, Option, Scored
from ..options import given, number
from ..over import carried as keeping
from ..over import spec as writing
from ..over.buffers import buffers, named
from ..over.leaves import Unfit
from ..over.profile import Profile, profile
from ..over.propose import Given, propose
from ..over.scores import SCORES, Score
from ..over.spec import Spec
from ..rules import TYPES
from ..shell import GapOptimizer
from ..work import Buffer, Work

LAST = "last_step"
"""The name of the buffers for the steps that were proposed last, before the candidate's number."""

NEVER = 2**62
"""A threshold that no count reaches."""


class OverNumbers(NamedTuple):
    """The options as a step needs them.

    Attributes:
        specs: the K candidates.
        profiles: what was found out about them.
        carried: what they keep for the whole group, which the step leaves there.
        carried_before: the same before the step. DeepSpeed steps a group in parts; each part begins with this.
        lr: learning rate; a tensor stays on its device.
        first_lr: the learning rate that the group was built with.
        decay: weight decay, the same for all candidates.
        score: how proposals are compared.
        last: where in the work's buffers the steps that were proposed last are, if the score needs them.
    """

    specs: tuple[Spec, ...]
    profiles: tuple[Profile, ...]
    carried: dict[str, Any]
    carried_before: dict[str, Any]
    lr: float | Tensor
    first_lr: float
    decay: float
    score: Score
    last: slice


class OverFamily(Scored):
    r"""The arithmetic of GapOver.

    Each candidate's optimizer takes its step on a copy of the parameters, from the same gradients \(g\), with a state
    of its own. With weight decay \(\lambda\) and candidate j's proposal \(p_j\)

    \[
    p' = (1 - \eta\lambda)\, p, \qquad d_j = p' - p_j, \qquad p \leftarrow \sum_j w_j\, p_j
    \]

    where \(w\) are the weights of a mix, or 1 for the chosen one. The scores are in ``over/scores.py``.
    """

    # fmt: off
    name, candidate_name, candidate_option = "over", "optimizer", "candidates"
    together = True
    options: ClassVar = {
        "candidates": Option(
            "the optimizers: a list of names, of mappings with ``name``, options and ``lr_scale``, or of classes; a "
            "text like ``'adamw:lion/lr_scale/0.1'``; or the path of a YAML or JSON file with such a list.",
            example=writing.EXAMPLE, read=lambda text: text,
        ),
        "score": Option(
            "how proposals are compared: ``'next'``, by how much the step proposed last would lower the loss, going by "
            "the new gradient; ``'decrease'``, by how much this one does to first order; ``'rms'``, likewise at steps "
            "of the same root mean square; or ``'gap'``, at steps of the size that gradients without structure would "
            "give them.",
            lambda x: isinstance(x, str) and x in SCORES, "'next', 'decrease', 'rms' or 'gap'", example="score=rms",
            resumed="run, same type", shared=True,
        ),
    }
    # fmt: on

    # ------------------------------------------------------------------ options
    def parse(self, options: Mapping[str, Any]) -> list[Spec]:
        return list(writing.read(options["candidates"]))

    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        specs = self.parse(options)
        names = [spec.name for spec in specs]
        return [Candidate(spec.text if names.count(spec.name) > 1 else spec.name, None, spec.name) for spec in specs]

    def check(self, options: Mapping[str, Any]) -> None:
        specs = self.parse(options)
        for j, spec in enumerate(specs):
            try:
                profile(spec), buffers(spec, j)
            except Unfit as error:
                raise ValueError(f"{spec.text} can't be a candidate: {error}") from error
            if SCORES[options["score"]].by_element and profile(spec).grain > Grain.ELEMENT:
                raise ValueError(
                    f"score={options['score']!r} measures the size of a candidate's steps, which must not depend on a "
                    f"parameter's shape; {spec.text} does not work element by element. Use score='next' or score='rms'"
                )
        for flag in ("foreach", "fused"):
            if options[flag] is not None:
                raise ValueError(
                    f"{flag}={options[flag]} is for kernels, of which GapOver has none; give it to the candidates that "
                    f"take it, for example candidates=adamw/{flag}/true"
                )
        expected, found = keeping.start([profile(spec).carried for spec in specs]), options.get("carried")
        good = isinstance(found, dict) and found.keys() == expected.keys() and isinstance(found[keeping.BEGUN], bool)
        if found is not None and not good:
            names = ", ".join(expected)
            raise ValueError(f"carried={found!r:.100} does not fit the candidates; expected a dictionary with {names}")

    def grain_of(self, options: Mapping[str, Any]) -> Grain:
        return max(profile(spec).grain for spec in self.parse(options))

    def needing_wholes(self, options: Mapping[str, Any]) -> str:
        names = [spec.name for spec in self.parse(options) if profile(spec).grain > Grain.ELEMENT]
        return f"each of gap_over's candidates {', '.join(names)}" if names[1:] else f"gap_over's candidate {names[0]}"

    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        specs = self.parse(options)
        found = [buffer for j, spec in enumerate(specs) for buffer in buffers(spec, j)]
        if self.compares_last(options):
            found += [Buffer(f"{LAST}_{j}", None, compact=False, dtype=torch.float32) for j in range(len(specs))]
        # the count of steps is kept only beside a buffer
        return found or [Buffer("nothing", lambda _: torch.Size([0]), compact=False)]

    def compares_last(self, options: Mapping[str, Any]) -> bool:
        """Whether the steps that were proposed last are compared, and so kept."""
        rule, decays = TYPES[options["type"]].rule, self.decays(options)
        return SCORES[options["score"]].keeps and rule is not None and rule(options, decays).scored

    def numbers(self, options: Mapping[str, Any]) -> OverNumbers:
        specs = tuple(self.parse(options))
        return OverNumbers(
            specs=specs,
            profiles=tuple(map(profile, specs)),
            carried=options["carried"],
            carried_before=copy.deepcopy(options["carried"]),
            lr=number(options["lr"]),
            first_lr=options["first_lr"],
            decay=float(options["weight_decay"]),
            score=SCORES[options["score"]],
            last=slice(-len(specs), None) if self.compares_last(options) else slice(0),
        )

    def decays(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        return (0.0,) * len(self.parse(options))  # so that a mix without weights weighs them equally

    def from_training_arguments(
        self, options: dict[str, Any], given: Mapping[str, Any], adam: Mapping[str, float]
    ) -> None:
        if "candidates" not in options:
            raise ValueError(f'optim="gap_over" needs candidates; for example optim_args="{writing.EXAMPLE}"')

    def ignored_training_arguments(self, options: Mapping[str, Any]) -> list[str]:
        return ["adam_beta1", "adam_beta2", "adam_epsilon"]

    # ------------------------------------------------------------------ a step
    def begin(self, works: Sequence[Work]) -> None:
        K = len(works[0].numbers.specs)
        decayed = list(map(starts, works))
        fresh = [(torch.stack(work.steps) <= 1).tolist() if work.steps else [] for work in works]
        for work in works:
            work.starts, work.proposals = [], []
        for j in range(K):
            spec, traits = works[0].numbers.specs[j], works[0].numbers.profiles[j]
            givens = []
            for work, own, of_work in zip(works, decayed, fresh, strict=True):
                work.starts.append(work.values if decays_itself(spec) else own)
                givens.append(self.given(work, j, of_work))
            try:
                found = propose(spec, givens, traits.changes_gradients)
                for work, of_group, proposed in zip(works, givens, found, strict=True):
                    keeping.put(work.numbers.carried, j, traits.carried, of_group.carried)
                    work.proposals.append(proposed)
            except Unfit as error:
                raise RuntimeError(f"candidate {spec.text}: {error}") from error

    def given(self, work: Work, j: int, fresh: Sequence[bool]) -> Given:
        """Return what candidate ``j`` is given of a group."""
        return Given(
            lr=work.numbers.lr,
            first_lr=work.numbers.first_lr,
            starts=work.starts[j],
            grads=work.grads,
            buffers=[named(work.declared, work.buffers, j, i) for i in range(len(work.values))],
            fresh=fresh,
            carried=keeping.take(work.numbers.carried_before, j, work.numbers.profiles[j].carried),
        )

    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        if not work.scored:
            return torch.zeros(len(work.values), 0, dtype=torch.float64, device=work.values[0].device)
        rows, kept, dtype = [], work.buffers[work.numbers.last], compute_dtype(work.values[0].dtype)
        for i, grad in enumerate(work.grads):
            pairs = zip(work.starts, work.proposals, strict=True)
            steps = [torch.sub(start[i].to(dtype), proposed[i].to(dtype)) for start, proposed in pairs]
            last = [column[i] for column in kept]
            rows.append(torch.stack(work.numbers.score.observe(grad.to(dtype), steps, last)))
            for buffer, step in zip(last, steps, strict=False):
                buffer.copy_(step)
        return torch.stack(rows)

    def sums(self, numbers: OverNumbers) -> int:
        return numbers.score.sums(len(numbers.specs))

    def scores(self, numbers: OverNumbers, sums: Tensor, numel: Tensor) -> Tensor:
        return numbers.score.scores(numbers.specs, numbers.lr, sums, numel)

    def apply(self, ops: Operations, work: Work, answers: list[Tensor], candidate: int) -> None:
        for p, proposed in zip(work.values, work.proposals[candidate], strict=True):
            p.copy_(proposed)

    def mix(self, ops: Operations, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]]) -> None:
        for i, (p, of_one) in enumerate(zip(work.values, weights, strict=True)):
            first, *others = (proposed[i] for proposed in work.proposals)
            p.copy_(first)
            for other, w in zip(others, of_one[1:], strict=True):
                p.add_((other - first).mul_(w))  # differences, so that equal proposals stay what they are


def starts(work: Work) -> list[Tensor]:
    """Return the parameters after the group's weight decay."""
    numbers = work.numbers
    return [p * (1 - numbers.lr * numbers.decay) for p in work.values] if numbers.decay else work.values


def decays_itself(spec: Spec) -> bool:
    """Whether an option makes a candidate decay the parameters itself, so that its steps begin at them as they are."""
    return any(name == "weight_decay" for name, _ in spec.options)


class GapOver(GapOptimizer):
    r"""Choose among whole optimizers at every step, or mix their steps.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    State per parameter: ``step`` (0-dim), and what each candidate keeps, with the candidate's number behind its name:
    ``exp_avg_0``, ``exp_avg_sq_0``, ``exp_avg_1``; with ``score="next"`` the step that it proposed last, too:
    ``last_step_0``. What a candidate keeps for a whole group is in ``param_group['carried']``.

    Raises:
        ValueError: an option is out of range, or an optimizer can't be a candidate.
    """

    family = OverFamily()

    def __init__(
        self,
        params: Any,
        candidates: str | list[Any],
        lr: float = 1e-3,
        weight_decay: float = 0,
        *,
        type: str | None = None,
        score: str = "next",
        weights: Sequence[float] | str | None = None,
        J_ema: float = 0.0,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        type = type or ("default" if len(writing.read(candidates)) == 1 else "mix")
        elsewhere = {"lr_modulation": False, "hysteresis_threshold": NEVER}
        super().__init__(params, {**given(locals()), **elsewhere})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as ``torch.optim.Optimizer.add_param_group`` does. Raises ValueError."""
        candidates = writing.read(param_group.get("candidates", self.defaults["candidates"]))
        text = ":".join(spec.text for spec in candidates)  # which a checkpoint can hold
        if self.param_groups and text != (first := self.param_groups[0]["candidates"]):
            raise ValueError(f"all groups share their candidates; got {first!r} and {text!r}")
        super().add_param_group({**param_group, "candidates": text})
        added = self.param_groups[-1]
        added.setdefault("carried", keeping.start([profile(spec).carried for spec in candidates]))
        added.setdefault("first_lr", float(added["lr"]))
