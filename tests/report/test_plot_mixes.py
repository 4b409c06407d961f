"""The pictures of mixes: mean weights, and the mean of the candidates."""

import numpy as np
import pytest

from gap_hf.choices import read_choices
from gap_hf.report.plot import layers_figure, share_figure

from .runs import write_run
from .test_plot import THREE, WISE, draw, heat_map, read_run


def test_mean_weights_are_stacked(tmp_path):
    choices = read_run(tmp_path, "mix, without values")
    figure = share_figure(choices)
    assert figure.axes[0].get_ylabel() == "mean weight"
    means = choices.weights.mean(axis=1)  # (T, K), in the order of the file: muon, 0.9, sgd
    tops = means[:, [1, 0, 2]].cumsum(axis=1)
    for k, area in enumerate(figure.axes[0].collections):
        vertices = area.get_paths()[0].vertices
        for step in (1, 17, 50):
            edge = vertices[np.isclose(vertices[:, 0], step - 0.5)][:, 1]
            assert np.isclose(edge, tops[step - 1, k], atol=1e-6).any()


def test_constant_weights_are_flat_areas(tmp_path):
    figure = share_figure(read_run(tmp_path, "mix, constant"))
    low, high = (area.get_paths()[0].vertices[:, 1] for area in figure.axes[0].collections)
    assert (low.min(), low.max()) == pytest.approx((0, 0.3))
    assert set(high.round(6)) == {0.3, 1.0}


def test_heat_map_of_a_mix_shows_its_mean_value(tmp_path):
    write_run(tmp_path, [["b.10.w", "b.2.w"], ["a.w"]], steps=30, type=WISE, candidates=THREE, reset_every=5)
    choices = read_choices(tmp_path)
    figure = layers_figure(choices)
    draw(figure)
    means = choices.weights @ np.array([0.5, 0.9, 0.99])
    assert heat_map(figure) == pytest.approx(means.T[[2, 1, 0]], abs=1e-6)
    assert figure.axes[0].collections[0].get_clim() == (0.5, 0.99), "all that a mix could be"
    assert figure.axes[1].get_ylabel() == "mean beta1"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["soft reset"]


def test_heat_map_of_a_mix_without_values_shows_the_largest_weight(tmp_path):
    choices = read_run(tmp_path, "mix, without values")
    figure = layers_figure(choices)
    assert sorted(heat_map(figure).ravel()) == pytest.approx(sorted(choices.weights.max(axis=2).ravel()), abs=1e-6)
    assert figure.axes[1].get_ylabel() == "largest weight"
    assert figure.legends == [], "nothing is left for it to explain"


def test_many_steps_of_a_mix_show_their_mean(tmp_path):
    choices = read_run(tmp_path, "mix, 5000 steps")
    figure = layers_figure(choices)
    assert "(each column: the mean of 9 steps)" in figure.axes[0].get_xlabel()
    values = choices.weights @ np.array([0.8, 0.9, 0.95, 0.99, 0.999])
    order = np.argsort(choices.parameters)
    assert heat_map(figure)[:, 0] == pytest.approx(values[:9, order].mean(axis=0), abs=1e-6)
    assert heat_map(figure)[:, -1] == pytest.approx(values[5000 - 5000 % 9 :, order].mean(axis=0), abs=1e-6)
