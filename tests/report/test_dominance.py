"""The picture that says whether choosing mattered."""

import numpy as np
import pytest

from gap_hf.report.dominance import dominance_figure
from gap_hf.report.run import read_runs

from .runs import write_log, write_run
from .test_plot import read_run


def test_dominance_is_that_of_the_choices(tmp_path):
    """Half of the run one candidate leads, half of it another: the colour changes, the height is the share."""
    chosen = np.zeros((120, 4), dtype=int)
    chosen[60:, :3] = 1
    write_run(tmp_path, [list("abcd")], steps=120, chosen=chosen)
    figure = dominance_figure(read_runs([tmp_path])[0], "Here is what it means.")
    (axes,) = figure.axes
    first, second = axes.collections
    assert first.get_paths()[0].vertices[:, 1].max() == 1
    assert second.get_paths()[0].vertices[:, 1].max() == 0.75
    assert first.get_paths()[0].contains_point((60, 0.5))
    assert second.get_paths()[0].contains_point((61, 0.5))
    assert [line.get_ydata() for line in axes.lines] == [[0.95, 0.95]]
    assert axes.get_xlabel() == "step\nHere is what it means."
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["mostly beta1 = 0.8", "mostly beta1 = 0.99", "95 %: hardly a choice"]


def test_what_was_logged_is_drawn_below(tmp_path):
    write_run(tmp_path, [list("abcd")], steps=10)
    correlation = [0.5, float("nan"), -0.25, 0.125]
    write_log(tmp_path, [1.0] * 4, correlation=correlation, every=3)  # the last is of a step that was not recorded
    above, below = dominance_figure(read_runs([tmp_path])[0]).axes
    assert below.lines[0].get_xydata().tolist() == [[3, 0.5], [9, -0.25]]
    assert below.get_ylim()[0] < -0.25
    assert above.get_xlim() == below.get_xlim() == (0.5, 10.5)
    assert below.get_xlabel() == "step"


def test_dominance_of_a_mix_is_its_largest_weight(tmp_path):
    choices = read_run(tmp_path, "mix, constant")
    assert choices.weights is not None
    figure = dominance_figure(read_runs([tmp_path])[0])
    (area,) = figure.axes[0].collections
    assert area.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.7)
    assert figure.axes[0].get_ylabel() == "weight of the leader"


def test_few_choices_are_no_dominance(tmp_path):
    """Of a single choice for all, each step has one: a column holds twenty of them."""
    write_run(tmp_path, [["a"]], steps=50, type="switch", chosen=np.arange(50)[:, None] % 2)
    figure = dominance_figure(read_runs([tmp_path])[0])
    assert max(area.get_paths()[0].vertices[:, 1].max() for area in figure.axes[0].collections) < 0.52


def test_values_are_not_torn_apart(tmp_path):
    write_run(tmp_path, [["a"]], steps=5)
    for value in ("beta1 = 0.8", "98 %"):
        figure = dominance_figure(read_runs([tmp_path])[0], "x" * (101 - len(value.split()[0]) - 2) + f" {value}")
        assert figure.axes[0].get_xlabel().splitlines()[2] == value.replace(" ", "\N{NO-BREAK SPACE}")
