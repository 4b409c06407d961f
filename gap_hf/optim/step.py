"""One step: observe, score, reduce, choose, apply.

More than one call of the optimizer's ``step`` brings it where the backend calls once per group. Nothing in it waits for
the device, as long as the kernels take the choices there.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..sharding.layout import Layout, Part
from .choice import average, choose, scores
from .constants import constant
from .groups import held, keep
from .kernels import FusedCPU, Kernel, Loop, Rule, Work
from .kernels.deal import Dealer

if TYPE_CHECKING:
    from .base import GapOptimizer

CPU = torch.device("cpu")

KEPT = ("last_choice", "negative_steps", "J_bar")
"""What a step hands on to the next, in each group."""


class Observed(NamedTuple):
    """What observing some fragments of one group gave: their partial sums."""

    part: Part
    kernel: Kernel
    work: Work
    sums: Tensor


class Sums(NamedTuple):
    """What the scores of some parameters of one group are made of; kept as it is, for somebody who asks for them.

    Attributes:
        g: the group's number.
        rows: which N of its P parameters they are.
        rule: the group's numbers.
        sums: ``(N, S)`` float64, over whole parameters.
        numel: the element counts of all P.
        live: ``(N,)`` bool, which of them have a gradient; None where all have.
    """

    g: int
    rows: Sequence[int]
    rule: Rule
    sums: Tensor
    numel: Sequence[int]
    live: Tensor | None


class Decision(NamedTuple):
    """What one step decided, as tensors where they were computed. Its methods wait for the device.

    Attributes:
        choices: for each group, ``(P,)`` int64 for ``'switch_parameter_wise'``, else 0-dim.
        K: for each group, the number of its candidates.
        resets: pairs of a group's number and which of its parameters were reset, ``(P,)`` bool.
        scores: ``(K,)`` float64 raw scores of ``'switch'``.
        sums: of ``'switch_parameter_wise'``.
    """

    choices: list[Tensor]
    K: list[int]
    resets: tuple[tuple[int, Tensor], ...]
    scores: Tensor | None
    sums: tuple[Sums, ...]

    def last_choice(self) -> list[Any]:
        """Each group's ``last_choice``."""
        return [choice.tolist() for choice in self.choices]

    def reset_parameters(self) -> tuple[tuple[int, int], ...]:
        """(group, index) of the parameters whose buffers were reset."""
        return tuple(sorted((g, i) for g, resets in self.resets for i, due in enumerate(resets.tolist()) if due))

    def scores_by_parameter(self) -> list[Tensor]:
        """Each group's raw scores, float64 on the CPU.

        Returns:
            For each group ``(P, K)``, with rows of NaN for parameters without a gradient; for ``'switch'`` ``(K,)``,
            the same in all groups.
        """
        if self.scores is not None:
            return [self.scores.cpu()] * len(self.choices)
        found = [
            torch.full((*choice.shape, K), math.nan, dtype=torch.float64, device=CPU)
            for choice, K in zip(self.choices, self.K, strict=True)
        ]
        for g, rows, rule, sums, numel, live in self.sums:
            # a list as an index is slow, and mostly not needed
            here = slice(None) if list(rows) == list(range(len(numel))) else list(rows)
            J = scores(rule, sums.cpu(), constant(tuple(numel), torch.float64, CPU)[here])
            found[g][here] = J if live is None else torch.where(live.cpu().unsqueeze(1), J, math.nan)
        return found

    def not_counted(self) -> list[int]:
        """For each group, how many parameters had a gradient but a score that is not finite: their choice stood.

        Under ``'switch'`` there is one score for all: 1 in every group or 0 in every group.
        """
        if self.scores is not None:
            return [int(not all(map(math.isfinite, self.scores.tolist())))] * len(self.choices)
        counts = [0] * len(self.choices)
        for g, rows, rule, sums, numel, live in self.sums:
            found = sums.cpu()
            if found.isfinite().all() and (found[:, len(rule.betas) :] > 0).all():
                continue  # all scores are finite: nearly always, and told at a tenth of the cost
            J = scores(rule, found, torch.tensor(numel, dtype=torch.float64, device=CPU)[list(rows)])
            says_nothing = ~J.isfinite().all(dim=-1)
            counts[g] += int((says_nothing if live is None else says_nothing & live.cpu()).sum())
        return counts


class Step:
    """What has been received so far, and what was decided.

    Attributes:
        groups: by number, the parameter groups and their rules.
        observed: the fragments with a gradient.
        idle: those without one that have buffers.
        resets: for each group, which parameters are reset, ``(P,)`` bool.
        sums: what ``'switch_parameter_wise'`` was decided by.
        done: whether everything has been chosen and applied already.
    """

    def __init__(self) -> None:
        self.groups: dict[int, tuple[dict[str, Any], Rule]] = {}
        self.observed: list[Observed] = []
        self.idle: list[Part] = []
        self.resets: list[tuple[int, Tensor]] = []
        self.sums: list[Sums] = []
        self.done = False

    def observe(self, optimizer: "GapOptimizer", layout: Layout, parts: list[Part]) -> None:
        """Update the moments of the fragments that have a gradient, and take their partial sums."""
        works = []
        for part in parts:
            live = part.with_grad()
            _, rule = self.groups.setdefault(part.g, (part.group, optimizer.rule(part.group)))
            if live is not part:
                without = [i for i, key in enumerate(part.keys) if part.grads[i] is None and optimizer.state.get(key)]
                self.idle.append(part.select(without))
            works += self.works(optimizer, live, rule)
        for fragments, kernel, work in works:
            kernel.tick(work)
            if not isinstance(kernel, FusedCPU) or layout.reduces:
                self.observed.append(Observed(fragments, kernel, work, kernel.observe(work)))
            elif optimizer.type == "switch_parameter_wise":
                self.step_alone(layout, fragments, kernel, work)
            elif len(works) == 1:
                self.step_alone_for_all(optimizer, layout, fragments, kernel, work)
            else:
                self.observed.append(Observed(fragments, kernel, work, kernel.observe(work)))

    def works(self, optimizer: "GapOptimizer", part: Part, rule: Rule) -> list[tuple[Part, Kernel, Work]]:
        """Fragments that all have a gradient, with their buffers, in as few lists as kernels can take at once."""
        if not part.rows:
            return []
        group = part.group
        states = [optimizer.state[key] for key in part.keys]
        if not all(states):
            states = [optimizer.make_state(group, key) for key in part.keys]
        first, second = (
            [part.local([s[name] for s in states]) for name in names] for names in optimizer.buffers(group)
        )
        work = Work(rule, part.values, part.gradients(), [s["step"] for s in states], first, second)
        dealer = optimizer.dealers.setdefault((part.g, id(part.keys[0])), Dealer())
        if group["state_dtype"] == "8bit":
            return [(part, Loop(), work)]
        works = []
        for kernel, rows, some in dealer.deal(work, group["foreach"], group["fused"]):
            if group["capturable"] and not kernel.on_device:
                raise RuntimeError(
                    f"capturable=True needs the fused kernel on an accelerator, but parameters on "
                    f"{some.values[0].device} are updated by the {kernel.name} kernel; leave capturable out"
                )
            works.append((part.select(rows), kernel, some))
        return works

    def step_alone(self, layout: Layout, part: Part, kernel: FusedCPU, work: Work) -> None:
        """Observe, choose and apply at once: where each parameter is here as a whole and has its own choice."""
        group, device = part.group, CPU
        rows = constant(part.rows, torch.int64, device)
        choice, negative_steps = held(group, "last_choice", device), held(group, "negative_steps", device)
        mine, counts = choice[rows], negative_steps[rows]
        due, sums = kernel.step(work, group["hysteresis_threshold"], mine, counts)
        keep(group, "last_choice", choice.index_copy(0, rows, mine))
        keep(group, "negative_steps", negative_steps.index_copy(0, rows, counts))
        resets = torch.zeros(len(choice), dtype=torch.bool, device=device).index_copy_(0, rows, due)
        self.resets.append((part.g, resets))
        self.sums.append(Sums(part.g, part.rows, work.rule, sums, layout.numel[part.g], None))

    def step_alone_for_all(
        self, optimizer: "GapOptimizer", layout: Layout, part: Part, kernel: FusedCPU, work: Work
    ) -> None:
        """The same where one choice is made for the whole model, and ``work`` is all of it."""
        group, device = part.group, CPU
        candidate, negative_steps, J_bar = (held(group, key, device).clone() for key in KEPT)
        J, reset = kernel.step_for_all(
            work, group["hysteresis_threshold"], group["J_ema"], candidate, negative_steps, J_bar
        )
        self.hand_on(candidate, negative_steps, J_bar)
        optimizer.last_scores = J
        self.resets += [(g, reset.expand(len(layout.numel[g]))) for g in self.groups]
        self.reset_idle(optimizer, dict.fromkeys(self.groups, reset))
        self.done = True

    def hand_on(self, candidate: Tensor, negative_steps: Tensor, J_bar: Tensor) -> None:
        """Keep what is one for all in every group."""
        for group, _ in self.groups.values():
            for key, value in zip(KEPT, (candidate, negative_steps, J_bar), strict=True):
                keep(group, key, value)

    def finish(self, optimizer: "GapOptimizer", layout: Layout) -> None:
        """Reduce the partial sums, choose, apply, and reset where hysteresis asks for it."""
        groups = self.groups
        if optimizer.type == "switch_parameter_wise" and not layout.reduces:
            # the others have chosen, or have no gradient
            groups = {o.part.g: groups[o.part.g] for o in self.observed}
        if not groups or self.done:
            return
        tables, live = layout.reduce(*self.tables(layout, groups, self.observed))
        J = []
        for (g, (_, rule)), sums, has_grad in zip(groups.items(), tables, live, strict=True):
            numel = constant(tuple(layout.numel[g]), torch.float64, layout.device)
            J.append(torch.where(has_grad.unsqueeze(1), scores(rule, sums, numel), 0.0))
            if optimizer.type == "switch_parameter_wise":
                self.sums.append(Sums(g, range(len(numel)), rule, sums, layout.numel[g], has_grad))
        only_groups = {g: group for g, (group, _) in groups.items()}
        if optimizer.type == "switch":
            choices, resets, optimizer.last_scores = self.choose_for_all(only_groups, J, live)
        else:
            choices, resets = self.choose_per_parameter(only_groups, J, live)
        self.resets += tuple((g, reset.expand(len(layout.numel[g]))) for g, reset in resets.items())
        for o in self.observed:
            o.kernel.apply(o.work, *decisions(o, choices[o.part.g], resets[o.part.g]))
        if optimizer.type == "switch":
            self.reset_idle(optimizer, resets)

    def tables(
        self, layout: Layout, groups: dict[int, tuple[dict[str, Any], Rule]], observed: list[Observed]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each group the ``(P, S)`` sums of this rank, and which of the P parameters have a gradient here."""
        tables, live, device = [], [], layout.device
        for g, (_, rule) in groups.items():
            P, mine = len(layout.numel[g]), [o for o in observed if o.part.g == g]
            if len(mine) == 1 and not layout.reduces and len(mine[0].part.rows) == P:
                tables.append(mine[0].sums.to(device, non_blocking=True))
                live.append(constant((True,) * P, torch.bool, device))
                continue
            table = torch.zeros(P, len(rule.betas) + len(rule.betas2), dtype=torch.float64, device=device)
            has_grad = torch.zeros(P, dtype=torch.bool, device=device)
            for part, _, _, sums in mine:
                rows = constant(part.rows, torch.int64, device)
                copies = constant(part.copies, torch.float64, device).unsqueeze(1)
                table.index_add_(0, rows, sums.to(device, non_blocking=True) / copies)
                has_grad.index_fill_(0, rows, True)
            tables.append(table)
            live.append(has_grad)
        return tables, live

    def choose_for_all(
        self, groups: dict[int, dict[str, Any]], scores: list[Tensor], live: list[Tensor]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
        """One choice for every parameter, from the ``(P, K)`` scores of the groups, added up of them: ``(K,)``."""
        J, any_live = torch.cat(scores).sum(dim=0), torch.cat(live).any()
        first = next(iter(groups.values()))
        candidate, negative_steps, J_bar = (held(first, key, J.device) for key in KEPT)
        counts = J.isfinite().all() & any_live
        averaged = average(J, counts, J_bar, first["J_ema"])
        new = choose(J, averaged, counts, candidate, negative_steps, first["hysteresis_threshold"])
        self.hand_on(new.candidate, new.negative_steps, averaged)
        return dict.fromkeys(groups, new.candidate), dict.fromkeys(groups, new.reset), J

    def choose_per_parameter(
        self, groups: dict[int, dict[str, Any]], scores: list[Tensor], live: list[Tensor]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """One choice per parameter that has a gradient, from its group's ``(P, K)`` scores; the others keep theirs."""
        choices, resets = {}, {}
        for (g, group), J, has_grad in zip(groups.items(), scores, live, strict=True):
            candidate, negative_steps = (held(group, key, J.device) for key in KEPT[:2])
            counts = J.isfinite().all(dim=-1) & has_grad
            new = choose(J, J, counts, candidate, negative_steps, group["hysteresis_threshold"])
            keep(group, "last_choice", new.candidate)
            keep(group, "negative_steps", new.negative_steps)
            choices[g], resets[g] = new.candidate, new.reset
        return choices, resets

    def reset_idle(self, optimizer: "GapOptimizer", resets: dict[int, Tensor]) -> None:
        """A reset of everything scales the buffers of parameters without a gradient, too."""
        for part in self.idle:
            group, rule = self.groups[part.g]
            for names, factor in zip(optimizer.buffers(group), (rule.soft_reset, rule.second_reset), strict=True):
                # by 1 where no reset is due: the host does not know, and needn't wait to learn it
                scale = torch.where(resets[part.g], factor, 1.0)
                for name in names:
                    for buffer in part.local([optimizer.state[key][name] for key in part.keys]):
                        buffer.mul_(scale.to(buffer.device, non_blocking=True))


def decisions(o: Observed, choices: Tensor, resets: Tensor) -> tuple[Any, Any]:
    """What ``o.kernel.apply`` takes of its group's choices and resets, 0-dim or ``(P,)``."""
    N = len(o.part.rows)
    if not o.kernel.on_device:
        chosen, due = choices.tolist(), resets.tolist()
        if choices.ndim == 0:
            return [chosen] * N, [due] * N
        return [chosen[i] for i in o.part.rows], [due[i] for i in o.part.rows]
    if choices.ndim == 0:
        choices, resets = choices.expand(N), resets.expand(N)
    else:
        rows = constant(o.part.rows, torch.int64, choices.device)
        choices, resets = choices.index_select(0, rows), resets.index_select(0, rows)
    device = o.work.values[0].device
    return choices.to(device, non_blocking=True), resets.to(device, non_blocking=True)
