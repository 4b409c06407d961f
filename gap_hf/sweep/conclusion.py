"""The sentence that a sweep ends with: did choosing, or mixing, help here?

It says "level" only where the seeds would have shown a difference. What is much and what is little is measured by the
fixed values: by how much worse the middle one is than the best.
"""

from enum import Enum

from ..report.paired import Difference
from .contenders import Contender, Role
from .outcome import Outcome

LEVEL = 0.5
"""The interval of what is level contains 0, and lies within so many times that measure of it."""
NEGLIGIBLE = 0.05
"""An interval this close to 0 is level, too, if it happens not to contain it."""
CONTROLS = {Role.RANDOM: "a random choice", Role.FIRST: "always taking the first-listed candidate"}


class Verdict(Enum):
    """How GAP stands to another contender."""

    BETTER = "better"
    WORSE = "worse"
    LEVEL = "level"
    OPEN = "open"


def conclude(outcome: Outcome) -> str:
    """Return one sentence of conclusion, in plain words, that follows from the numbers."""
    gap, best = outcome.gap, outcome.best_fixed()
    if best is None:
        return "No fixed value has a loss to compare with."
    if outcome.lost(gap):
        return f"{gap.name} has no loss to compare: {everywhere(outcome)}."
    if len(outcome.seeds) == 1:
        regret = outcome.regret(gap)
        here = f"; here {gap.name} is {regret.text} from the best fixed value, {best.name}" if regret else ""
        return f"One seed says nothing about noise: run at least three (--seed){here}."
    smallest = next(iter(outcome.with_role(Role.SMALLEST)), None)
    if gap.role is Role.PICK and smallest is not None and not outcome.lost(smallest):
        return about_the_pick(outcome, smallest)
    return about_the_rest(outcome)


def everywhere(outcome: Outcome) -> str:
    """Say that something diverged, wherever it ran."""
    return "it diverged" + (" at every learning rate" if len(outcome.lrs) > 1 else "")


def about_the_pick(outcome: Outcome, smallest: Contender) -> str:
    """Say whether the choice differs from its smallest candidate, from its controls, and from the best fixed value."""
    found = outcome.between(outcome.gap, smallest)
    clauses = [relation(outcome, found, f"fixed {smallest.name}, its smallest candidate")]
    against_it = verdict(outcome, found)
    if against_it is Verdict.LEVEL:
        opening = "Choosing did not matter here"
    elif against_it is Verdict.OPEN:
        opening = "With these seeds it stays open whether choosing mattered"
    else:
        opening, controls = judged_by_controls(outcome, against_it)
        clauses += controls
    return f"{opening}: {outcome.gap.name} is {joined([*clauses, *against_the_best(outcome, smallest)])}."


def judged_by_controls(outcome: Outcome, against_it: Verdict) -> tuple[str, list[str]]:
    """Say whether it was choosing that made a difference: if so, the controls lack it.

    Always taking the first-listed candidate shows what all the rest of GAP does. A random choice shows what any choice
    would have done, which is no excuse for one that does harm.

    Args:
        outcome: the numbers.
        against_it: how GAP stands to its smallest candidate, better or worse.
    """
    better = against_it is Verdict.BETTER
    did = "helped" if better else "did harm"
    controls = outcome.with_role(*((Role.RANDOM, Role.FIRST) if better else (Role.FIRST,)))
    if not controls:
        return f"Something {did} here, and the controls, which did not run, would tell whether it was choosing", []
    found = {control: outcome.between(outcome.gap, control) for control in controls if not outcome.lost(control)}
    like_it = {control: apart for control, apart in found.items() if verdict(outcome, apart) is not against_it}
    clauses = [relation(outcome, apart, CONTROLS[control.role]) for control, apart in like_it.items()]
    if not like_it:
        return f"Choosing {did} here", []
    if all(verdict(outcome, apart) is Verdict.OPEN for apart in like_it.values()):
        return f"Something {did} here, and with these seeds it stays open whether it was choosing", clauses
    return f"Something other than choosing {did} here", clauses


def about_the_rest(outcome: Outcome) -> str:
    """Say how a mix compares with 0.9, with the best fixed value, and with the same mix at constant weights."""
    gap, usual = outcome.gap, outcome.usual()
    clauses = []
    if usual is not None:
        where = "at 0.9's learning rate" if len(outcome.lrs) > 1 else "at the same learning rate"
        found = outcome.transfer(gap)
        clauses.append(f"{relation(outcome, found, usual.name)} {where}" if found else f"without a loss {where}")
    # at a single learning rate, both comparisons with a 0.9 that is the best would be the same
    clauses += against_the_best(outcome, None if usual is None or len(outcome.lrs) > 1 else usual)
    for control in outcome.with_role(Role.CONSTANT):
        clauses.append(relation(outcome, outcome.between(gap, control), "the same mix at constant weights"))
    return f"{gap.name} is {joined(clauses)}."


def against_the_best(outcome: Outcome, told: Contender | None) -> list[str]:
    """Say how GAP compares with the best fixed value, unless that is the one that was told of already."""
    best = outcome.best_fixed()
    if best is None or best == told:
        return []
    return [relation(outcome, outcome.regret(outcome.gap), f"the best fixed value, {best.name}")]


def relation(outcome: Outcome, found: Difference | None, words: str) -> str:
    """Say how GAP stands to what ``words`` name; it has a loss itself."""
    if found is None:
        return f"not to be compared with {words}, which diverged"
    how = verdict(outcome, found)
    if how is Verdict.LEVEL:
        return f"level with {words} ({found.text})"
    if how is Verdict.OPEN:
        return f"undecided against {words} ({found.text})"
    comma = "," if "," in words else ""
    return f"{how.value} than {words}{comma} by {found.size}"


def verdict(outcome: Outcome, found: Difference | None) -> Verdict:
    """Judge a difference of GAP from another contender by its interval."""
    if found is None or found.half is None:
        return Verdict.OPEN
    scale, reach = outcome.scale(), abs(found.mean) + found.half
    if scale is not None and reach <= NEGLIGIBLE * scale:
        return Verdict.LEVEL
    if found.sign:
        return Verdict.BETTER if found.sign < 0 else Verdict.WORSE
    return Verdict.LEVEL if scale is None or reach <= LEVEL * scale else Verdict.OPEN


def joined(clauses: list[str]) -> str:
    """Join clauses to a list in words."""
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])}, and {clauses[-1]}"
