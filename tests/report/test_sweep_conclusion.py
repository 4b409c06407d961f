"""The sentence that follows from a sweep's numbers."""

import math
import re

import pytest

from gap_hf.sweep import conclude

from .sweeps import around, outcome

SMALLEST = "fixed beta1=0.8, its smallest candidate"
PLACES = {"beta1=0.8": around(1.0, wobble=0), "beta1=0.9": around(1.3, wobble=0)}
"""Fixed values 0.3 apart, the smallest candidate first."""


def said(tmp_path, losses, smallest=0.8) -> str:
    """The conclusion, without the intervals' widths."""
    text = conclude(outcome(tmp_path, losses, smallest))
    assert text.endswith(".")
    assert text.count(". ") == 0, "one sentence"
    return re.sub(r" ± [\d.]+\d", " ±", text)


def test_choosing_did_not_matter(tmp_path):
    text = said(tmp_path, {"gap_adamw": around(1.0), **PLACES})
    assert text == f"Choosing did not matter here: gap_adamw is level with {SMALLEST} (+0.0000 ±)."


def test_the_best_fixed_value_is_told_of_if_it_is_another(tmp_path):
    text = said(tmp_path, {"gap_adamw": around(1.0), "beta1=0.5": around(0.7), **PLACES})
    assert text == (
        f"Choosing did not matter here: gap_adamw is level with {SMALLEST} (+0.0000 ±), and worse than the best fixed "
        "value, beta1=0.5, by 0.3000 ±."
    )


def test_the_interval_stands_in_it(tmp_path):
    assert re.search(r"\(\+0\.0000 ± 0\.0018\)", conclude(outcome(tmp_path, {"gap_adamw": around(1.0), **PLACES})))


@pytest.mark.parametrize(
    ("random", "first", "opening", "clauses"),
    [
        (1.2, 1.0, "Choosing helped here", []),
        (0.9, 1.0, "Something other than choosing helped here", ["level with a random choice (+0.0000 ±)"]),
        (
            0.8,
            0.9,
            "Something other than choosing helped here",
            [
                "worse than a random choice by 0.1000 ±",
                "level with always taking the first-listed candidate (+0.0000 ±)",
            ],
        ),
        (math.nan, 1.0, "Choosing helped here", []),
    ],
)
def test_better_than_the_smallest(tmp_path, random, first, opening, clauses):
    losses = {"gap_adamw": around(0.9), "random": around(random, wobble=0), "first": around(first, wobble=0), **PLACES}
    text = said(tmp_path, losses)
    assert text.startswith(f"{opening}: gap_adamw is better than {SMALLEST}, by 0.1000 ±")
    for clause in clauses:
        assert clause in text
    assert text.count("choice") + text.count("first-listed") == len(clauses)


def test_better_without_controls(tmp_path):
    text = said(tmp_path, {"gap_adamw": around(0.9), **PLACES})
    assert text.startswith("Something helped here, and the controls, which did not run, would tell ")


def test_worse_than_the_smallest(tmp_path):
    losses = {"gap_adamw": around(1.1), "random": around(1.1), "first": around(1.0), **PLACES}
    assert said(tmp_path, losses) == f"Choosing did harm here: gap_adamw is worse than {SMALLEST}, by 0.1000 ±."
    text = said(tmp_path, {**losses, "first": around(1.1, wobble=0)})
    assert text.startswith("Something other than choosing did harm here: ")
    assert "and level with always taking the first-listed candidate" in text


def test_an_interval_as_wide_as_the_grid_says_nothing(tmp_path):
    """The middle of the fixed values is 0.15 above the best, so level is what lies within 0.075."""
    text = said(tmp_path, {"gap_adamw": around(1.0, wobble=0.1), **PLACES})
    assert text == (
        f"With these seeds it stays open whether choosing mattered: gap_adamw is undecided against {SMALLEST} "
        "(+0.0000 ±)."
    )
    assert "Choosing did not matter" in said(tmp_path, {"gap_adamw": around(1.0, wobble=0.03), **PLACES})


def test_a_difference_that_may_be_large_is_not_level(tmp_path):
    """Its interval contains 0, but reaches far from it."""
    losses = {"gap_adamw": around(0.96, wobble=0.03), **PLACES}
    assert said(tmp_path, losses).startswith("With these seeds it stays open whether choosing mattered: ")


def test_a_worst_value_that_is_close_to_divergence_makes_nothing_level(tmp_path):
    losses = {"gap_adamw": around(1.0, wobble=0.2), **PLACES, "beta1=0.99": around(900.0)}
    assert said(tmp_path, losses).startswith("With these seeds it stays open whether choosing mattered: ")


def test_a_tiny_difference_is_level_even_if_it_is_certain(tmp_path):
    """Rounding alone makes one, if all runs are alike."""
    text = said(tmp_path, {"gap_adamw": around(1.005, wobble=0.0001), **PLACES})
    assert text == f"Choosing did not matter here: gap_adamw is level with {SMALLEST} (+0.0050 ±)."


def test_a_wide_interval_of_a_control_says_nothing(tmp_path):
    losses = {"gap_adamw": around(0.9), "first": around(1.0), "random": around(0.9, wobble=0.2), **PLACES}
    assert said(tmp_path, losses).startswith("Something helped here, and with these seeds it stays open ")


def test_one_seed(tmp_path):
    text = said(tmp_path, {"gap_adamw": [1.1], "beta1=0.8": [1.0], "beta1=0.9": [1.2]})
    assert text == (
        "One seed says nothing about noise: run at least three (--seed); here gap_adamw is +0.1000 from the best fixed "
        "value, beta1=0.8."
    )


MIX = {1e-3: around(1.05), 2e-3: around(1.0), 4e-3: around(1.2)}
NINE = {1e-3: around(1.1, wobble=0), 2e-3: around(1.4, wobble=0), 4e-3: around(1.9, wobble=0)}
FIVE = {1e-3: around(1.5, wobble=0), 2e-3: around(1.2, wobble=0), 4e-3: around(1.0, wobble=0)}


def test_mix_over_learning_rates(tmp_path):
    """Against 0.9 at 0.9's learning rate, against the best fixed value each at its own."""
    text = said(tmp_path, {"gap_adamw_mix": MIX, "beta1=0.5": FIVE, "beta1=0.9": NINE}, smallest=0.5)
    assert text == (
        "gap_adamw_mix is better than beta1=0.9 by 0.0500 ± at 0.9's learning rate, and level with the best fixed "
        "value, beta1=0.5 (+0.0000 ±)."
    )


def test_mix_at_one_learning_rate(tmp_path):
    """0.9 is the best fixed value, and is compared with once."""
    losses = {"gap_adamw_mix": around(1.0), "beta1=0.5": around(1.2), "beta1=0.9": around(1.1, wobble=0)}
    text = said(tmp_path, losses, smallest=0.5)
    assert text == "gap_adamw_mix is better than beta1=0.9 by 0.1000 ± at the same learning rate."


def test_mix_without_nine(tmp_path):
    text = said(tmp_path, {"gap_adamw_mix": around(1.0), "beta1=0.5": around(1.2, wobble=0)}, smallest=0.5)
    assert text == "gap_adamw_mix is better than the best fixed value, beta1=0.5, by 0.2000 ±."


def test_mix_by_scores(tmp_path):
    losses = {"gap_adamw_mix": around(1.0), "constant_mix": around(1.0, wobble=0), **PLACES}
    assert said(tmp_path, losses) == (
        "gap_adamw_mix is better than beta1=0.9 by 0.3000 ± at the same learning rate, level with the best fixed "
        "value, beta1=0.8 (+0.0000 ±), and level with the same mix at constant weights (+0.0000 ±)."
    )


def test_mix_that_diverges_at_the_learning_rate_of_nine(tmp_path):
    mix = {**MIX, 1e-3: [math.nan] * 4}
    text = said(tmp_path, {"gap_adamw_mix": mix, "beta1=0.5": FIVE, "beta1=0.9": NINE}, smallest=0.5)
    assert text.startswith("gap_adamw_mix is without a loss at 0.9's learning rate, and level with")


def test_nothing_to_compare(tmp_path):
    lost = [math.nan] * 4
    assert said(tmp_path, {"gap_adamw": lost, **PLACES}) == "gap_adamw has no loss to compare: it diverged."
    text = said(tmp_path, {"gap_adamw": {1e-3: lost, 2e-3: lost}, "beta1=0.5": {1e-3: lost, 2e-3: around(1.0)}})
    assert text == "gap_adamw has no loss to compare: it diverged at every learning rate."
    text = said(tmp_path, {"gap_adamw": around(1.0), "beta1=0.8": lost})
    assert text == "No fixed value has a loss to compare with."


def test_the_smallest_candidate_diverged(tmp_path):
    """What is left to say is how GAP compares with the others."""
    text = said(tmp_path, {"gap_adamw": around(1.0), "beta1=0.8": [math.nan] * 4, "beta1=0.9": around(1.3, wobble=0)})
    assert text == "gap_adamw is better than beta1=0.9 by 0.3000 ± at the same learning rate."
