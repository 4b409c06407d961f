"""The sentence that a sweep ends with: did choosing, or mixing, help here?

It says "level" only where the seeds would have shown a difference: where the interval is as wide as the fixed values
are apart, the answer stays open.
"""

from ..report.paired import Difference
from .contenders import Contender, Role
from .outcome import Outcome

BEYOND = 0.5
"""An interval's half-width, in units of the fixed values' spread, from which nothing can be said."""
CONTROLS = {Role.RANDOM: "a random choice", Role.FIRST: "always taking the first-listed candidate"}


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
    if found is None or is_open(outcome, found):
        opening = "With these seeds it stays open whether choosing mattered"
    elif found.sign:
        opening, controls = judged_by_controls(outcome, found.sign)
        clauses += controls
    else:
        opening = "Choosing did not matter here"
    return f"{opening}: {outcome.gap.name} is {joined([*clauses, *against_the_best(outcome, smallest)])}."


def judged_by_controls(outcome: Outcome, sign: int) -> tuple[str, list[str]]:
    """Say whether it was choosing that made a difference: if so, the controls lack it.

    Always taking the first-listed candidate shows what all the rest of GAP does. A random choice shows what any choice
    would have done, which is no excuse for one that does harm.

    Args:
        outcome: the numbers.
        sign: -1 if GAP is better than its smallest candidate, 1 if it is worse.
    """
    did = "helped" if sign < 0 else "did harm"
    controls = outcome.with_role(*((Role.RANDOM, Role.FIRST) if sign < 0 else (Role.FIRST,)))
    if not controls:
        return f"Something {did} here, and the controls, which did not run, would tell whether it was choosing", []
    found = {control: outcome.between(outcome.gap, control) for control in controls}
    like_it = {control: apart for control, apart in found.items() if apart is not None and apart.sign != sign}
    clauses = [relation(outcome, apart, CONTROLS[control.role]) for control, apart in like_it.items()]
    if not like_it:
        return f"Choosing {did} here", []
    if all(is_open(outcome, apart) for apart in like_it.values()):
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
    """Say how GAP, which has a loss, stands to what ``words`` name."""
    if found is None:
        return f"not to be compared with {words}, which diverged"
    if found.sign:
        comma = "," if "," in words else ""
        return f"{'better' if found.sign < 0 else 'worse'} than {words}{comma} by {found.size}"
    if is_open(outcome, found):
        return f"not to be told from {words} ({found.text})"
    return f"level with {words} ({found.text})"


def is_open(outcome: Outcome, found: Difference | None) -> bool:
    """Whether the interval contains 0, and is too wide for that to mean anything."""
    if found is None or found.sign or found.half is None:
        return False
    return len(outcome.fixed()) > 1 and found.half >= BEYOND * outcome.spread()


def joined(clauses: list[str]) -> str:
    """Join clauses to a list in words."""
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])}, and {clauses[-1]}"
