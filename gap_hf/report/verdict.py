"""Did choosing matter in a run? What the recorded choices say about that, in words, and what they can't say."""

from typing import NamedTuple

import numpy as np

from ..candidate import Candidate
from ..choices import Choices
from ..choices.dominance import NEARLY_ALWAYS
from .candidates import all_candidates, applied, applied_in, display_names, places, stretches

STEADY = 0.05
"""A weight whose middle 90 % lie within less than this hardly moves."""

NARROW, WIDE = 0.1, 0.3
"""A margin below the first says that the scores are within a fifth of each other; at the second, they are nearly two
to one."""

STRETCHES = 60
"""Stretches of a run at most in which the leading candidate is looked for."""

LEAST = 20
"""Choices that a stretch has at least: of a few, one candidate easily makes up all."""

COMPARE = "only a comparison shows: gap-hf sweep."

CONTROLS = {
    "first": "This run is a control: the first-listed candidate was always applied, whatever the scores. A run that "
    "chooses among the same candidates has to do better than this one.",
    "random": "This run is a control: candidates were drawn at random, whatever their scores. A run that chooses among "
    "the same candidates has to do better than this one.",
}
CONTROLS["random_parameter_wise"] = CONTROLS["random"]


class Lead(NamedTuple):
    """The candidate that was applied most in each of S stretches of steps.

    Attributes:
        starts: ``(S,)``, the index at which each stretch begins.
        candidates: ``(S,)``, the number of the candidate among ``all_candidates``.
        shares: ``(S,)``, its share of the choices, or its mean weight.
    """

    starts: np.ndarray
    candidates: np.ndarray
    shares: np.ndarray


def lead(choices: Choices) -> Lead:
    """Find the candidate that was applied most in each of up to ``STRETCHES`` stretches of a run."""
    steps, parameters = choices.choices.shape
    starts = stretches(steps, STRETCHES, -(-LEAST // parameters))
    amounts = applied_in(choices, all_candidates(choices), starts).sum(axis=2)
    return Lead(starts, amounts.argmax(axis=0), amounts.max(axis=0) / amounts.sum(axis=0))


def verdict(choices: Choices) -> str:
    """Say in a sentence or two whether choosing mattered.

    The choices show how much there was to choose, not whether it helped. So this never says that it did, and it says of
    a candidate that was nearly always applied only what is likely.
    """
    if choices.type in CONTROLS:
        return CONTROLS[choices.type]
    candidates = all_candidates(choices)
    if max(map(len, choices.candidates)) == 1:
        return "There was nothing to choose: there is only one candidate."
    about = about_a_pick if choices.weights is None else about_a_mix
    return about(choices, display_names(choices, candidates), too_short(choices, candidates))


def too_short(choices: Choices, candidates: list[Candidate]) -> str | None:
    """Say that the run is shorter than its longest memory, if it is: until that is full, the shortest one leads."""
    steps = int(choices.steps[-1])
    memories = [(round(1 / (1 - c.value)), c) for c in candidates if c.value is not None and c.value < 1]
    if not memories or steps >= memories[-1][0]:  # they are in order
        return None
    reach, longest = memories[-1]
    (name,) = display_names(choices, [longest])
    return f"This run is too short to tell: {steps} step{'s' * (steps > 1)}, and the memory of {name} spans {reach}."


def about_a_pick(choices: Choices, names: list[str], too_short: str | None) -> str:
    """What there is to say about a run in which one candidate at a time is applied."""
    by_parameter = np.array([one.mean(axis=0) for one in applied(choices, all_candidates(choices))])
    shares = by_parameter.mean(axis=1)
    leader, most = names[int(shares.argmax())], shares.max()
    if too_short:
        return f"{too_short} So far {leader} made up {percent(most)} of all choices."
    if most > NEARLY_ALWAYS:
        return (
            f"{leader} made up {percent(most)} of all choices: with that alone, the plain optimizer (type=default) "
            f"would most likely have done nearly the same. What the other choices were worth, {COMPARE}"
        )
    said = f"No candidate made up more than {percent(most)} of all choices"
    own = by_parameter.max(axis=0).mean()
    if own > NEARLY_ALWAYS and len(choices.steps) >= LEAST:
        return (
            f"{said}, but each parameter kept to one: on average its usual one made up {percent(own)} of its choices. "
            f"A fixed value for each of them would most likely have done nearly the same. What choosing was worth, "
            f"{COMPARE}"
        )
    led = lead(choices)
    times = int((led.candidates[1:] != led.candidates[:-1]).sum())
    if led.shares.mean() > NEARLY_ALWAYS and times:
        return (
            f"{said}, but at any time one of them made up nearly all: {percent(led.shares.mean())} of a short stretch "
            f"of steps, on average. Another one took over {times} time{'s' * (times > 1)}: where that can be foreseen, "
            f"a schedule would do nearly the same. What choosing was worth, {COMPARE}"
        )
    return f"{said}{about_margins(choices)} Whether it helped, {COMPARE}"


def about_margins(choices: Choices) -> str:
    """End the sentence about a run in which all candidates have their share by how clearly they won it."""
    if np.isnan(choices.margins).all():
        return ": there was something to choose."
    middle = float(np.nanmedian(choices.margins))
    if middle < NARROW:
        return f", but the margins are narrow (median {middle:.2f}): most of them were between near equals."
    width = "wide" if middle >= WIDE else "moderate"
    return f", and the margins are {width} (median {middle:.2f}): the choice was a real one."


def about_a_mix(choices: Choices, names: list[str], too_short: str | None) -> str:
    """What there is to say about a run in which all candidates are applied together."""
    candidates, weights = all_candidates(choices), choices.weights
    assert weights is not None
    if len(weights) == 1:  # whether they follow the scores can't be seen yet
        return too_short or "This run is too short to tell: 1 step."
    if (weights == weights[:1]).all():
        return f"The weights are constant, so nothing was chosen. Whether this mix helped, {COMPARE}"
    where = places(choices, candidates)
    ranges, means = [], []
    for k, one in enumerate(applied(choices, candidates)):
        mine = one[:, (where == k).any(axis=1)]  # the others can't give it a weight
        ranges.append(np.percentile(mine, [5, 95]))
        means.append(mine.mean())
    widths = [high - low for low, high in ranges]
    widest = int(np.argmax(widths))
    told = range(len(names)) if len(names) <= 4 else [widest]
    each = [f"{ranges[k][0]:.2f} to {ranges[k][1]:.2f} ({names[k]})" for k in told]
    moved = f"The weights followed the scores; the middle 90 % of them: {', '.join(each)}"
    if len(told) < len(names):
        moved += ", which moved most"
    if too_short:
        return f"{too_short} {moved}."
    if max(means) > NEARLY_ALWAYS:
        leader = names[int(np.argmax(means))]
        return (
            f"{moved}. {leader} had {percent(max(means))} of the weight: that alone would most likely have done nearly "
            f"the same. Whether the others helped, {COMPARE}"
        )
    if widths[widest] < STEADY:
        return f"{moved}. They hardly moved: constant ones would most likely have done nearly the same."
    return f"{moved}. Whether it helped that they moved, {COMPARE}"


def percent(share: float) -> str:
    """Write a share in per cent, and one that is nearly all not as all."""
    return f"{np.floor(1000 * share) / 10:.1f} %" if 0.99 < share < 1 else f"{100 * share:.0f} %"
