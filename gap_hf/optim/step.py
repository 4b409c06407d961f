"""One step: observe, add up, choose, apply.

If the backend calls the optimizer's ``step`` once per group, one step takes several of these calls. Nothing in it waits
for the device, as long as the kernels take the choices there.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..sharding.layout import Layout
from ..sharding.part import Part
from . import state
from .arithmetic.boxes import Place
from .decision import Outcome, Sums
from .default import for_torchs_kernel
from .family import Family, Scored, TorchsDefault
from .kernels.deal import Dealer
from .kernels.foreach import Foreach, rescale
from .kernels.kernel import ChoosingKernel, Kernel
from .reading import Reader
from .rules import TYPES
from .rules.rule import Rule
from .scope import Chosen, remember_constant, scope_of
from .uploads import constant
from .work import Buffer, Work


class Grouped(NamedTuple):
    """A parameter group, what its family makes of its options, and the rule that decides in it."""

    group: dict[str, Any]
    numbers: Any
    declared: Sequence[Buffer]
    rule: Rule | None


@dataclass(slots=True)
class Observed:
    """Some fragments of one group, on their way through the rounds.

    Attributes:
        part: the fragments.
        kernel: the kernel that does their arithmetic.
        work: what the kernel works on.
        sums: their partial sums in the latest round.
        answers: the sums of the earlier rounds, added up.
    """

    part: Part
    kernel: Kernel
    work: Work
    sums: Any
    answers: list[Any] = field(default_factory=list)


class Step:
    """One step, from the first fragments that arrive to the last that are applied.

    Args:
        family: the family that does the arithmetic.
        type_: the option ``type``.
        layout: how the parameters lie over processes.
        states: the state of each parameter, as in ``optimizer.state``.
        reader: gives the reader of a group's options; kept from step to step.
        dealers: what was found out about the tensors; kept from step to step.
    """

    def __init__(
        self,
        family: Family,
        type_: str,
        layout: Layout,
        states: MutableMapping[Tensor, Any],
        reader: Callable[[dict[str, Any]], Reader],
        dealers: dict[tuple[int, int], Dealer],
    ) -> None:
        self.family, self.scope, self.decides = family, scope_of(type_), TYPES[type_].rule is not None
        self.layout, self.states, self.reader, self.dealers = layout, states, reader, dealers
        self.groups: dict[int, Grouped] = {}
        self.observed: list[Observed] = []
        self.idle: list[Part] = []  # fragments without a gradient, but with buffers
        self.resets: list[tuple[int, Tensor]] = []
        self.scores: Tensor | None = None
        self.sums: list[Sums] = []
        self.done = False  # whether everything has been chosen and applied already

    # ------------------------------------------------------------------ what arrives
    def observe(self, parts: Sequence[Part]) -> None:
        """Update the buffers of the fragments that have a gradient, and take their partial sums."""
        arrived: list[tuple[Part, Kernel, Work]] = []
        together: list[Work] = []  # in order, those without any gradient included
        for part in parts:
            if part.g not in self.groups:
                group, reader = part.group, self.reader(part.group)
                self.groups[part.g] = Grouped(group, reader.numbers(group), *reader.settled(group))
            moving = part.with_grad()
            if moving is not part:
                without = [i for i, key in enumerate(part.keys) if part.grads[i] is None and self.states.get(key)]
                if without:
                    self.idle.append(part.select(without))
            if not moving.rows:
                if self.family.together and part.keys:
                    together.append(self.work(moving))
                continue
            work = self.work(moving)
            if not self.decides and isinstance(self.family, TorchsDefault):
                group = part.group
                self.family.default_step(for_torchs_kernel(work) if group["fused"] else work, group)
            else:
                dealt = self.dealt(moving, work, self.dealer(part))
                arrived += dealt
                together += [one for *_, one in dealt]
        for _, kernel, work in arrived:
            kernel.tick(work)
        if together:
            self.family.begin(together)
        for part, kernel, work in arrived:
            rule = self.groups[part.g].rule
            if weights := self.constant_weights(rule):
                kernel.step_constant(work, weights)
            elif not self.at_once(part, kernel, work, alone=len(arrived) == 1):
                self.observed.append(Observed(part, kernel, work, kernel.observe(work, [])))

    def constant_weights(self, rule: Rule | None) -> tuple[float, ...] | None:
        """Return the weights with which one pass can do the step, if they are known beforehand."""
        if self.family.rounds or not isinstance(self.family, Scored):
            return None
        if rule is None:  # a single candidate
            return (1.0,)
        return None if rule.scored else rule.weights

    def work(self, part: Part) -> Work:
        """Join fragments that all have a gradient with their buffers, which are made where there are none."""
        group, numbers, declared, rule = self.groups[part.g]
        states = [self.states[key] for key in part.keys]
        if not all(states):
            whole = partial(self.layout.shapes_in, part.g)
            states = [state.make(self.states, self.family, group, key, partial(whole, key)) for key in part.keys]
        buffers = []
        for buffer in declared:
            column = [s[buffer.name] for s in states]
            own = buffer.shape
            buffers.append(part.local(column) if own is None else self.layout.shaped(part, own, column))
        steps = [s["step"] for s in states] if declared else []
        scored = rule is not None and rule.scored
        work = Work(numbers, declared, part.values, part.gradients(), steps, buffers, scored)
        if self.family.placed:
            shapes, starts = self.layout.shapes[part.g], self.layout.starts(part)
            work.places = [Place(row, shapes[row], start) for row, start in zip(part.rows, starts, strict=True)]
        if part.wholes is not None:
            work.wholes, work.within = cast(list[Tensor], part.wholes), part.within
        return work

    def dealer(self, part: Part) -> Dealer:
        """Return the dealer of ``part``, which knows the tensors from the steps before."""
        key = part.g, id(part.keys[0])
        if key not in self.dealers:
            self.dealers[key] = Dealer(self.family)
        return self.dealers[key]

    def dealt(self, part: Part, work: Work, dealer: Dealer) -> list[tuple[Part, Kernel, Work]]:
        """Divide ``work`` into as few lists as kernels can take at once."""
        group = part.group
        if self.family.together:
            return [(part, Foreach(self.family), work)]
        works = []
        for kernel, rows, some in dealer.deal(work, group["foreach"], group["fused"]):
            if group.get("capturable") and not kernel.on_device:
                raise RuntimeError(
                    f"capturable=True needs the fused kernel on an accelerator, but parameters on "
                    f"{some.values[0].device} are updated by the {kernel.name} kernel; leave capturable out"
                )
            works.append((part if some is work else part.select(rows), kernel, some))
        return works

    def at_once(self, part: Part, kernel: Kernel, work: Work, alone: bool) -> bool:
        """Try to do the whole step of ``work`` in one call, which works if no other rank takes part; return whether."""
        if self.family.rounds or self.layout.reduces:
            return False
        rule = self.groups[part.g].rule
        if rule is None or not isinstance(kernel, ChoosingKernel) or type(rule) not in kernel.rules:
            return False
        groups = {g: grouped.group for g, grouped in self.groups.items()}
        chosen = self.scope.step_at_once(rule, groups, part.g, part.rows, kernel, work, alone)
        if chosen is None:
            return False
        if chosen.sums is not None:
            self.keep_sums(part.g, part.rows, chosen.sums, None)
        self.note(chosen)
        self.done = not self.scope.per_parameter
        return True

    # ------------------------------------------------------------------ what is decided
    def finish(self) -> Outcome:
        """Add up what has been observed, choose, apply, and reset where hysteresis asks for it."""
        groups, settled = {}, {}
        for g, grouped in self.groups.items():
            if grouped.rule is not None and not grouped.rule.scored:
                remember_constant(grouped.group, grouped.rule)
                settled[g] = grouped.rule
            else:
                groups[g] = grouped
        if self.scope.per_parameter and not self.layout.reduces:
            # the others have chosen, or have no gradient
            groups = {o.part.g: groups[o.part.g] for o in self.observed if o.part.g in groups}
        if (groups or self.family.rounds) and not self.done:  # else everything has been applied
            self.advance()
            chosen = only_candidate(groups)
            if self.decides and groups:
                chosen = self.choose(groups)
                self.note(chosen)
            chosen = with_constant(chosen, settled)
            for o in self.observed:
                apply(o, chosen)
        return Outcome(tuple(self.resets), self.scores, tuple(self.sums))

    def advance(self) -> None:
        """Take the rounds before the scores for all fragments together, with one reduction for each round."""
        ways = {"model": self.over_model, "parameter": self.over_parameters, "vectors": self.over_vectors}
        for reduction in self.family.rounds:
            ways[reduction.over](reduction.width)
            for o in self.observed:
                o.sums = o.kernel.observe(o.work, o.answers)

    def over_model(self, width: Any) -> None:
        """Answer every fragment with the sums over all of them."""
        total = torch.zeros(width, dtype=torch.float64, device=self.layout.device)
        for o in self.observed:
            total += (o.sums / self.copies(o)).sum(dim=0).to(total.device)
        answers = self.layout.add_up(total)
        for o in self.observed:
            o.answers.append(answers.to(o.sums.device))

    def over_parameters(self, width: Any) -> None:
        """Answer every fragment with the sums over those of its parameter."""
        tables, _ = self.layout.reduce(*self.tables(self.groups, [width] * len(self.groups)))
        for o in self.observed:
            table = tables[list(self.groups).index(o.part.g)]
            rows = constant(o.part.rows, torch.int64, table.device)
            o.answers.append(table.index_select(0, rows).to(o.sums.device))

    def over_vectors(self, width: Any) -> None:
        """Answer every fragment with the sum of its parameter's vectors, which all travel in one reduction."""
        if not self.layout.reduces:
            for o in self.observed:
                o.answers.append(o.sums)
            return
        lengths = [[width(shape) for shape in self.layout.shapes[g]] for g in range(len(self.layout.shapes))]
        flat = torch.zeros(sum(map(sum, lengths)), dtype=torch.float64, device=self.layout.device)
        vectors = cut(lengths, flat)
        for o in self.observed:
            for row, copies, vector in zip(o.part.rows, o.part.copies, o.sums, strict=True):
                vectors[o.part.g][row] += vector.to(flat.device) / copies
        found = cut(lengths, self.layout.add_up(flat))
        for o in self.observed:
            device = o.work.values[0].device
            o.answers.append([found[o.part.g][row].to(device) for row in o.part.rows])

    def choose(self, groups: dict[int, Grouped]) -> Chosen:
        """Add up the last sums, score the candidates and choose."""
        family = self.family
        assert isinstance(family, Scored)  # options.validate has seen to that
        widths = [family.sums(grouped.numbers) for grouped in groups.values()]
        tables, with_grad = self.layout.reduce(*self.tables(groups, widths))
        J = []
        for (g, grouped), sums, has_grad in zip(groups.items(), tables, with_grad, strict=True):
            numel = constant(tuple(self.layout.numel[g]), torch.float64, self.layout.device)
            J.append(torch.where(has_grad.unsqueeze(1), family.scores(grouped.numbers, sums, numel), 0.0))
            if self.scope.per_parameter:
                self.keep_sums(g, range(len(numel)), sums, has_grad)
        rules = {g: grouped.rule for g, grouped in groups.items() if grouped.rule is not None}
        return self.scope.choose(rules, {g: grouped.group for g, grouped in groups.items()}, J, with_grad)

    def copies(self, o: Observed) -> Tensor:
        """Return how many ranks hold each fragment, ``(N, 1)`` float64."""
        return constant(o.part.copies, torch.float64, o.sums.device).unsqueeze(1)

    def tables(self, groups: dict[int, Grouped], widths: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Collect each group's ``(P, width)`` sums on this rank, and which of its P parameters have a gradient here."""
        tables, with_grad, device = [], [], self.layout.device
        for g, width in zip(groups, widths, strict=True):
            P, mine = len(self.layout.numel[g]), [o for o in self.observed if o.part.g == g]
            if len(mine) == 1 and not self.layout.reduces and len(mine[0].part.rows) == P:
                tables.append(mine[0].sums.to(device, non_blocking=True))
                with_grad.append(constant((True,) * P, torch.bool, device))
                continue
            table = torch.zeros(P, width, dtype=torch.float64, device=device)
            has_grad = torch.zeros(P, dtype=torch.bool, device=device)
            for o in mine:
                rows = constant(o.part.rows, torch.int64, device)
                copies = constant(o.part.copies, torch.float64, device).unsqueeze(1)
                table.index_add_(0, rows, o.sums.to(device, non_blocking=True) / copies)
                has_grad.index_fill_(0, rows, True)
            tables.append(table)
            with_grad.append(has_grad)
        return tables, with_grad

    def keep_sums(self, g: int, rows: Sequence[int], sums: Tensor, with_grad: Tensor | None) -> None:
        """Keep the sums by which the choices of a group were made."""
        assert isinstance(self.family, Scored)
        numbers = self.groups[g].numbers
        self.sums.append(Sums(g, rows, self.family, numbers, sums, self.layout.numel[g], with_grad))

    def note(self, chosen: Chosen) -> None:
        """Keep what was decided; a reset of everything scales the buffers of parameters without a gradient, too."""
        for g, reset in chosen.resets.items():
            self.resets.append((g, reset if reset.ndim else reset.expand(len(self.layout.numel[g]))))
        if self.scope.per_parameter:
            return
        self.scores = chosen.scores
        for part in self.idle:
            due, declared = chosen.resets[part.g], self.groups[part.g].declared
            for buffer in declared:
                column = [self.states[key][buffer.name] for key in part.keys]
                if buffer.relative is not None and column and column[0].dtype == torch.uint8:
                    seconds = part.local([self.states[key][buffer.relative.to] for key in part.keys])
                    for code, v in zip(part.local(column), seconds, strict=True):
                        rescale(declared, buffer, code, v, due.to(code.device, non_blocking=True))
                    continue
                # by 1 where no reset is due: the host does not know, and needn't wait to learn it
                factor = torch.where(due, buffer.soft_reset, 1.0)
                own = buffer.shape
                for tensor in part.local(column) if own is None else self.layout.shaped(part, own, column):
                    tensor.mul_(factor.to(tensor.device, non_blocking=True))


def cut(lengths: list[list[int]], flat: Tensor) -> list[list[Tensor]]:
    """Cut ``flat`` into views of these lengths, group by group."""
    groups = flat.split([sum(of_group) for of_group in lengths])
    return [list(group.split(of_group)) for group, of_group in zip(groups, lengths, strict=True)]


def only_candidate(groups: Iterable[int]) -> Chosen:
    """The first candidate everywhere, where there is no other."""
    return Chosen(
        dict.fromkeys(groups, torch.tensor(0, device="cpu")), dict.fromkeys(groups, torch.tensor(False, device="cpu"))
    )


def with_constant(chosen: Chosen, rules: Mapping[int, Rule]) -> Chosen:
    """Add the groups whose weights are constant."""
    if not rules:
        return chosen
    weights = {g: torch.tensor(rule.weights, dtype=torch.float64, device="cpu") for g, rule in rules.items()}
    resets = dict.fromkeys(rules, torch.tensor(False, device="cpu"))
    return chosen._replace(choices=chosen.choices | weights, resets=chosen.resets | resets)


def apply(o: Observed, chosen: Chosen) -> None:
    """Have ``o``'s kernel apply what was chosen for its fragments, in the form that it takes."""
    N, choices, resets = len(o.part.rows), chosen.choices[o.part.g], chosen.resets[o.part.g]
    mixes = choices.is_floating_point()
    apply = o.kernel.mix if mixes else o.kernel.apply
    alone = choices.ndim == mixes  # one for all, which is not a row of a table
    if not o.kernel.on_device:
        picked, due = choices.tolist(), resets.tolist()
        if alone:
            apply(o.work, o.answers, [picked] * N, [due] * N)
        else:
            apply(o.work, o.answers, [picked[i] for i in o.part.rows], [due[i] for i in o.part.rows])
        return
    if alone:
        choices, resets = choices.expand(N, *choices.shape), resets.expand(N)
    else:
        rows = constant(o.part.rows, torch.int64, choices.device)
        choices, resets = choices.index_select(0, rows), resets.index_select(0, rows)
    device = o.work.values[0].device
    apply(o.work, o.answers, choices.to(device, non_blocking=True), resets.to(device, non_blocking=True))


def refuse_capture(device: torch.device, param_groups: list[dict[str, Any]]) -> None:
    """Raise RuntimeError if a CUDA graph captures the step without the options that this needs."""
    if device.type != "cuda" or all(group.get("capturable") for group in param_groups):
        return
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("a CUDA graph captures this step; build the optimizer with capturable=True for that")
