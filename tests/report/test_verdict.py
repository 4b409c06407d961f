"""Did choosing matter? What is said of made-up runs."""

import numpy as np
import pytest

from gap_hf.candidate import Candidate
from gap_hf.choices import Choices, read_choices
from gap_hf.optim import rules
from gap_hf.report.verdict import CONTROLS, LEAST, lead, percent, verdict

from ..choices.files import adams
from .runs import lora_names, write_run

SWEEP = "only a comparison shows: gap-hf sweep."


def picks(shares, steps: int = 400, parameters: int = 10, margin: float | None = 0.4, **given) -> Choices:
    """A run in which candidate k makes up ``shares[k]`` of the choices, well mixed over steps and parameters."""
    total = steps * parameters
    chosen = np.repeat(np.arange(len(shares)), np.rint(np.array(shares) * total).astype(int))
    chosen = np.random.default_rng(0).permutation(chosen).reshape(steps, parameters)
    return run_of(chosen, margin=margin, **given)


def run_of(chosen: np.ndarray, *, margin: float | None = 0.4, labels=("0.8", "0.9", "0.95"), **given) -> Choices:
    steps, parameters = chosen.shape
    return Choices(
        **{
            "type": "switch_parameter_wise",
            "candidate": "beta1",
            "steps": np.arange(1, steps + 1),
            "choices": chosen,
            "parameters": [f"p{i}" for i in range(parameters)],
            "candidates": [adams(*labels)] * parameters,
            "resets": [],
            "margins": np.full(chosen.shape, np.nan if margin is None else margin),
            **given,
        }
    )


def mix_of(weights: np.ndarray, **given) -> Choices:
    return run_of(weights.argmax(axis=2), weights=weights.astype(np.float32), type="mix_parameter_wise", **given)


# ---------------------------------------------------------------- one candidate at a time
def test_one_candidate_dominates():
    said = verdict(picks([0.98, 0.02, 0]))
    assert said.startswith("beta1 = 0.8 made up 98 % of all choices: with that alone, the plain optimizer")
    assert "most likely" in said, "dominance proves nothing"
    assert said.endswith(f"What the other choices were worth, {SWEEP}")


@pytest.mark.parametrize(("share", "dominates"), [(0.94, False), (0.95, False), (0.96, True), (1.0, True)])
def test_the_limit(share, dominates):
    assert verdict(picks([1 - share, 0, share])).startswith("beta1 = 0.95 made up") == dominates


@pytest.mark.parametrize(
    ("margin", "says"),
    [
        (0.4, "and the margins are wide (median 0.40): the choice was a real one."),
        (0.2, "and the margins are moderate (median 0.20): the choice was a real one."),
        (0.04, "but the margins are narrow (median 0.04): most of them were between near equals."),
    ],
)
def test_all_have_their_share(margin, says):
    said = verdict(picks([0.61, 0.2, 0.19], margin=margin))
    assert said == f"No candidate made up more than 61 % of all choices, {says} Whether it helped, {SWEEP}"


def test_margins_that_are_not_known():
    said = verdict(picks([0.61, 0.2, 0.19], margin=None))
    assert said.startswith("No candidate made up more than 61 % of all choices: there was something to choose. Whether")


def test_each_parameter_keeps_to_its_own():
    """What differs is the parameter, not the step: a value for each would do."""
    chosen = np.tile(np.arange(10) % 3, (400, 1))
    chosen[:10] = 0
    said = verdict(run_of(chosen))
    assert said.startswith("No candidate made up more than 42 % of all choices, but each parameter kept to one: ")
    assert "98 % of its choices. A fixed value for each of them would most likely have done nearly the same." in said


@pytest.mark.parametrize("parameters", [1, 10])
def test_one_after_the_other(parameters):
    """What differs is the step, not the parameter: a schedule would do."""
    chosen = np.repeat([0, 2, 1], [200, 100, 100])[:, None].repeat(parameters, axis=1)
    said = verdict(run_of(chosen))
    assert said.startswith("No candidate made up more than 50 % of all choices, but at any time one of them made up")
    assert "Another one took over 2 times: where that can be foreseen, a schedule would do nearly the same." in said


def test_single_choices_are_no_stretch():
    """Of one choice for all, each step has but one: taken step by step, any run would look like a schedule."""
    chosen = np.random.default_rng(0).integers(0, 2, size=(50, 1))
    said = verdict(run_of(chosen, type="switch"))
    assert "the choice was a real one" in said


def test_groups_with_other_candidates():
    candidates = [adams("0.8", "0.9")] * 5 + [adams("0.5", "0.8")] * 5
    chosen = np.tile([0] * 5 + [1] * 5, (100, 1))
    said = verdict(run_of(chosen, candidates=candidates))
    assert said.startswith("beta1 = 0.8 made up 100 % of all choices")


@pytest.mark.parametrize(("steps", "short"), [(1, True), (99, True), (100, False)])
def test_shorter_than_the_longest_memory(steps, short):
    """Until that is full, the shortest memory leads."""
    said = verdict(run_of(np.zeros((steps, 4), dtype=int), labels=("0.8", "0.99")))
    many = f"{steps} step{'s' * (steps > 1)}"
    assert short == (
        said == f"This run is too short to tell: {many}, and the memory of beta1 = 0.99 spans 100. "
        "So far beta1 = 0.8 made up 100 % of all choices."
    )
    assert short or said.startswith("beta1 = 0.8 made up 100 %")


def test_resumed_far_from_its_start():
    """The steps before the file began have filled the memory."""
    chosen = np.zeros((20, 4), dtype=int)
    assert "too short" not in verdict(run_of(chosen, labels=("0.8", "0.99"), steps=np.arange(5001, 5021)))


def test_candidates_without_values():
    muon, sgd = Candidate("muon", None, "muon"), Candidate("sgd", None, "sgdm")
    assert verdict(picks([0.98, 0.02], candidates=[[muon, sgd]] * 10)).startswith("muon made up 98 % of all choices")


def test_single_candidate():
    said = verdict(run_of(np.zeros((5, 2), dtype=int), labels=("0.9",)))
    assert said == "There was nothing to choose: there is only one candidate."


@pytest.mark.parametrize("type", ["first", "random", "random_parameter_wise"])
def test_controls(tmp_path, type):
    """Whatever was applied most: nothing was chosen."""
    write_run(tmp_path, [lora_names(1)], steps=3, type=type, chosen=np.zeros((3, 14 if "wise" in type else 1), int))
    said = verdict(read_choices(tmp_path))
    assert said.startswith("This run is a control: ")
    assert ("first-listed" in said) == (type == "first")


def test_every_type_is_a_pick_a_mix_or_a_control():
    others = {name for name, type in rules.TYPES.items() if type.rule not in (None, rules.best.Best, rules.mix.Mix)}
    assert set(CONTROLS) == others


# ---------------------------------------------------------------- mixes
def weights_around(*means: float, spread: float = 0.0, steps: int = 200) -> np.ndarray:
    """Weights ``(T, 4, K)``; the first moves by ``spread`` up and down, and the last takes what it leaves."""
    weights = np.tile(np.array(means), (steps, 4, 1))
    moved = spread * np.linspace(-1, 1, steps)[:, None]
    weights[..., 0] += moved
    weights[..., -1] -= moved
    return weights


def test_constant_weights(tmp_path):
    said = f"The weights are constant, so nothing was chosen. Whether this mix helped, {SWEEP}"
    assert verdict(mix_of(weights_around(0.5, 0.3, 0.2))) == said
    write_run(tmp_path, [["a"]], steps=2, type="mix", weights=(0.3, 0.7))
    assert verdict(read_choices(tmp_path)) == said


def test_weights_that_move():
    said = verdict(mix_of(weights_around(0.5, 0.3, 0.2, spread=0.2)))
    assert said == (
        "The weights followed the scores; the middle 90 % of them: 0.32 to 0.68 (beta1 = 0.8), 0.30 to 0.30 "
        f"(beta1 = 0.9), 0.02 to 0.38 (beta1 = 0.95). Whether it helped that they moved, {SWEEP}"
    )


def test_weights_that_hardly_move():
    said = verdict(mix_of(weights_around(0.5, 0.3, 0.2, spread=0.02)))
    assert said.endswith("They hardly moved: constant ones would most likely have done nearly the same.")


def test_one_weight_is_nearly_all():
    said = verdict(mix_of(weights_around(0.97, 0.01, 0.02, spread=0.01)))
    assert "beta1 = 0.8 had 97 % of the weight: that alone would most likely have done nearly the same." in said


def test_many_candidates_are_not_all_listed():
    labels = ("0.5", "0.8", "0.9", "0.92", "0.95")
    weights = weights_around(0.4, 0.1, 0.1, 0.1, 0.3, spread=0.2)
    weights[..., 1:] = 0.25 * (1 - weights[..., :1])
    said = verdict(mix_of(weights, labels=labels))
    assert "the middle 90 % of them: 0.22 to 0.58 (beta1 = 0.5), which moved most." in said


def test_weights_of_groups_with_other_candidates():
    """A candidate that a parameter does not have is no weight of 0."""
    candidates = [adams("0.8", "0.9")] * 2 + [adams("0.5", "0.8")] * 2
    said = verdict(mix_of(weights_around(0.4, 0.6, spread=0.1), candidates=candidates))
    assert "0.31 to 0.49 (beta1 = 0.5), 0.32 to 0.68 (beta1 = 0.8), 0.51 to 0.69 (beta1 = 0.9)" in said


@pytest.mark.parametrize("labels", [("0.8", "0.99"), ("0", "0.0")])
def test_one_step_of_a_mix(labels):
    assert verdict(mix_of(weights_around(0.5, 0.5, steps=1), labels=labels)).startswith("This run is too short to tell")


def test_short_mix():
    said = verdict(mix_of(weights_around(0.5, 0.5, spread=0.2, steps=50), labels=("0.8", "0.99")))
    assert said.startswith(
        "This run is too short to tell: 50 steps, and the memory of beta1 = 0.99 spans 100. The weights"
    )


# ---------------------------------------------------------------- the numbers
def test_lead():
    chosen = np.repeat([0, 2], [30, 30])[:, None].repeat(4, axis=1)
    chosen[:, 0] = 1
    found = lead(run_of(chosen))
    assert found.candidates.tolist() == [0] * 6 + [2] * 6
    assert found.shares.tolist() == [0.75] * 12
    assert np.diff(found.starts).tolist() == [LEAST // 4] * 11


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50 %"), (0.984, "98 %"), (0.9969, "99.6 %"), (0.99999, "99.9 %"), (1.0, "100 %")]
)
def test_percent(share, text):
    assert percent(share) == text
