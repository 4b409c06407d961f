"""The pictures: written for every kind of run, and readable."""

from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from gap_hf.candidate import Candidate
from gap_hf.choices import Choices, read_choices
from gap_hf.report.candidates import all_candidates, candidate_indices, stretches
from gap_hf.report.dominance import dominance_figure
from gap_hf.report.plot import figures, layers_figure, margins_figure, palette, share_figure
from gap_hf.report.run import read_runs
from gap_hf.report.verdict import verdict
from gap_hf.report.write import plot_run

from ..choices.files import adams
from .runs import lora_names, write_log, write_run

FULL = [
    [
        "model.embed_tokens.weight",
        "lm_head.weight",
        *(f"model.layers.{n}.{m}.weight" for n in range(32) for m in ("q_proj", "k_proj", "v_proj", "o_proj", "mlp")),
    ],
    ["model.norm.weight", *(f"model.layers.{n}.{m}_layernorm.weight" for n in range(32) for m in ("input", "post"))],
]
LONG = [[f"{'very_long_module_name.' * 8}{c}" for c in "abc"] + ["x.y"]]
UNVALUED = (Candidate("muon", None, "muon"), Candidate("0.9", 0.9, "adam"), Candidate("sgd", None, "sgdm"))
WISE = "mix_parameter_wise"
THREE = ("0.5", "0.9", "0.99")
PAIRS = ("0.8/0.999", "0.9/0.999", "0.95/0.99", "0.99/0.9999", "0.999/0.99999")
RUNS = {
    "24 parameters": {"names": [lora_names(2)[:24]], "steps": 200, "reset_every": 13},
    "24 parameters, 1 step": {"names": [lora_names(2)[:24]], "steps": 1},
    "24 parameters, 5000 steps": {"names": [lora_names(2)[:24]], "steps": 5000, "reset_every": 40},
    "448 parameters": {"names": [lora_names(32)], "steps": 100, "candidates": THREE, "reset_every": 7},
    "448 parameters, 1 step": {"names": [lora_names(32)], "steps": 1, "reset_every": 1},
    "448 parameters, 5000 steps": {"names": [lora_names(32)], "steps": 5000, "candidates": THREE, "reset_every": 50},
    "48 parameters": {"names": [lora_names(4)[:48]], "steps": 9},
    "49 parameters": {"names": [lora_names(4)[:49]], "steps": 9},
    "full model": {"names": FULL, "steps": 60, "reset_every": 5},
    "1 parameter": {"names": [["weight"]], "steps": 9, "reset_every": 2},
    "long names": {"names": LONG, "steps": 9},
    "own beta2": {"names": [lora_names(2)], "steps": 50, "candidates": PAIRS, "reset_every": 3},
    "without values": {"names": [lora_names(2)], "steps": 50, "candidates": UNVALUED, "reset_every": 3},
    "1 candidate": {"names": [lora_names(2)], "steps": 5, "candidates": ("0.9",)},
    "switch": {"names": FULL, "steps": 200, "type": "switch", "candidates": THREE, "reset_every": 25},
    "switch, 1 step": {"names": FULL, "steps": 1, "type": "switch"},
    "switch, 5000 steps": {"names": FULL, "steps": 5000, "type": "switch", "candidates": THREE, "reset_every": 25},
    "mix": {"names": FULL, "steps": 200, "type": "mix", "candidates": THREE, "reset_every": 25},
    "mix, 1 step": {"names": FULL, "steps": 1, "type": "mix"},
    "mix, 5000 steps": {"names": [lora_names(2)[:24]], "steps": 5000, "type": WISE, "candidates": PAIRS},
    "mix, 448 parameters": {"names": [lora_names(32)], "steps": 60, "type": WISE, "reset_every": 7},
    "mix, long names": {"names": LONG, "steps": 9, "type": WISE, "candidates": PAIRS, "reset_every": 2},
    "mix, without values": {"names": [lora_names(2)], "steps": 50, "type": WISE, "candidates": UNVALUED},
    "mix, constant": {"names": [lora_names(2)], "steps": 50, "type": "mix", "weights": (0.3, 0.7)},
    "mix, 1 candidate": {"names": [lora_names(2)], "steps": 5, "type": "mix", "candidates": ("0.9",), "weights": (1,)},
    "random": {"names": [lora_names(2)], "steps": 50, "type": "random_parameter_wise", "candidates": THREE},
    "first": {"names": [lora_names(2)], "steps": 50, "type": "first"},
}
WITHOUT_MARGINS = {kind for kind in RUNS if kind.startswith("mix") or kind == "1 candidate"}


def read_run(path: Path, kind: str) -> Choices:
    write_run(path, **RUNS[kind])
    return read_choices(path)


def unknown(chosen: np.ndarray) -> np.ndarray:
    """Margins of a file without any."""
    return np.full(chosen.shape, np.nan)


def draw(figure: Figure) -> None:
    FigureCanvasAgg(figure).draw()


def overlapping(texts: list) -> list[tuple[str, str]]:
    """Pairs of visible texts whose boxes share more than an edge."""
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_visible() and t.get_text()]
    return [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("picture", ["gap_dominance", "gap_share", "gap_layers", "gap_margins"])
def test_texts_are_readable(tmp_path, kind, picture):
    """Nothing overlaps, nothing is cut off, and the picture leaves room for what it shows."""
    if picture == "gap_dominance":
        steps = RUNS[kind]["steps"]
        each = {"dominance": [0.5] * steps, "correlation": [-0.1] * steps}
        write_log(tmp_path, [1.0] * steps, every=1, **(each if steps < 5000 else {}))
        choices = read_run(tmp_path, kind)
        figure = dominance_figure(read_runs([tmp_path])[0], verdict(choices))
    else:
        drawn = figures(read_run(tmp_path, kind))
        if kind in WITHOUT_MARGINS:
            assert list(drawn) == ["gap_share", "gap_layers"], "nothing to be ahead of"
            drawn["gap_margins"] = drawn["gap_share"]
        figure = drawn[picture]
    draw(figure)
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    assert texts or kind.startswith("mix")
    marked = []
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            labels = [label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible()]
            texts += [*labels, axis.label]
            marked += [label for label in labels if axis is axes.xaxis and label.get_text()]
        texts.append(axes.title)
    assert marked
    main = figure.axes[0]
    assert overlapping(texts) == []
    width, height = figure.canvas.get_width_height()
    for text in texts:
        if text.get_visible() and text.get_text():
            box = text.get_window_extent()
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= width, text
            assert box.y1 <= height, text
            assert text.get_fontsize() >= 7
    assert main.get_window_extent().width > 0.4 * width
    assert main.get_window_extent().height > 0.3 * height


@pytest.mark.parametrize("kind", RUNS)
def test_only_whole_steps_are_marked(tmp_path, kind):
    choices = read_run(tmp_path, kind)
    for figure in figures(choices).values():
        draw(figure)
        low, high = figure.axes[0].get_xlim()
        shown = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == round(tick) for tick in shown)
        assert (low, high) == (choices.steps[0] - 0.5, choices.steps[-1] + 0.5)


def test_files(tmp_path):
    for i, kind in enumerate(RUNS):
        write_run(tmp_path / str(i), **RUNS[kind])
    run = tmp_path / "0"
    names = [f"gap_{what}.{kind}" for what in ("dominance", "share", "layers", "margins") for kind in ("png", "svg")]
    assert plot_run(run) == [run / name for name in [*names, "gap_report.html"]]
    deep = tmp_path / "new" / "deep"
    assert plot_run(run / "gap_choices.jsonl", deep, ["png"])[0] == deep / "gap_dominance.png"
    assert len(list(deep.iterdir())) == 4
    for path in [*run.glob("*.png"), *deep.glob("*.png")]:
        pixels = imread(path)
        assert pixels.shape[1] > 900
        assert pixels.std() > 0.1


def test_files_are_the_same_each_time(tmp_path):
    write_run(tmp_path, [lora_names(2)], steps=20)
    first = {path.name: path.read_bytes() for path in plot_run(tmp_path)}
    assert {path.name: path.read_bytes() for path in plot_run(tmp_path)} == first


def test_vector_pictures_stay_small(tmp_path):
    write_run(tmp_path, [lora_names(32)], steps=600)
    assert all(path.stat().st_size < 600_000 for path in plot_run(tmp_path, formats=["svg"]))


def test_resumed_run(tmp_path):
    """The picture shows the steps that count, without a gap or a repetition."""
    names = [lora_names(2)[:6]]
    first = write_run(tmp_path, names, steps=20, reset_every=5)
    rest = write_run(tmp_path, names, steps=12, start=12, seed=1)
    expected = np.concatenate([first[:12], rest])
    choices = read_choices(tmp_path)
    assert choices.steps.tolist() == list(range(1, 25))
    order = np.argsort(choices.parameters)
    assert (heat_map(layers_figure(choices)) == expected.T[order]).all()
    assert len(plot_run(tmp_path, formats=["png"])) == 4


def heat_map(figure: Figure) -> np.ndarray:
    """The candidates' indices as drawn, (rows, columns)."""
    (mesh,) = figure.axes[0].collections
    return np.asarray(mesh.get_array()).reshape(mesh.get_coordinates().shape[0] - 1, -1)


def test_heat_map_shows_each_choice(tmp_path):
    chosen = write_run(tmp_path, [["b.10.w", "b.2.w"], ["a.w"]], steps=30, candidates=THREE, reset_every=5)
    figure = layers_figure(read_choices(tmp_path))
    draw(figure)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b.2", "b.10"]
    assert (heat_map(figure) == chosen.T[[2, 1, 0]]).all()
    assert figure.axes[0].yaxis_inverted()  # the first name on top
    (crosses,) = figure.axes[0].lines
    # by turns b.10, whose row is 2, and b.2, whose row is 1
    assert crosses.get_xydata().tolist() == [[5, 2], [10, 1], [15, 2], [20, 1], [25, 2], [30, 1]]


def test_many_steps_show_the_most_frequent(tmp_path):
    """Of candidates 0 and 2 in turn, the map must not show 1, which nothing chose."""
    steps = np.arange(1, 2401)
    chosen = np.where(steps % 4 == 0, 2, 0)[:, None]
    figure = layers_figure(
        Choices("switch", "beta1", steps, chosen, ["all parameters"], [adams(*THREE)], [], unknown(chosen))
    )
    assert set(heat_map(figure).ravel()) == {0}
    assert "most frequent choice of 4 steps" in figure.axes[0].get_xlabel()


def test_share_is_that_of_the_choices(tmp_path):
    chosen = write_run(tmp_path, [lora_names(2)], steps=50, candidates=THREE)
    figure = share_figure(read_choices(tmp_path))
    areas = figure.axes[0].collections
    assert len(areas) == 3
    for step in (1, 17, 50):
        column = Counter(chosen[step - 1].tolist())
        top = 0.0
        for k, area in enumerate(areas):
            top += column[k] / chosen.shape[1]
            vertices = area.get_paths()[0].vertices
            # the upper edge over this step
            assert vertices[np.isclose(vertices[:, 0], step - 0.5)][:, 1].max() >= top - 1e-9
            assert area.get_paths()[0].contains_point((step, top - 1e-6)) == bool(column[k])


def test_one_step_is_seen(tmp_path):
    """Not an empty picture: its column has a width."""
    figure = share_figure(read_run(tmp_path, "24 parameters, 1 step"))
    draw(figure)
    box = figure.axes[0].get_window_extent()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255
    inside = pixels[-int(box.y1) + 3 : -int(box.y0) - 3, int(box.x0) + 3 : int(box.x1) - 3]
    assert (inside.reshape(-1, 3).max(axis=1) < 1).all()


def test_missing_steps_leave_the_others_in_place():
    """Steps that a skipped step left out: the map's columns and the crosses stay at their steps."""
    steps = np.array([1, 2, 6, 7])
    chosen = np.array([[0], [0], [1], [1]])
    candidates = [adams("0.8", "0.99")]
    figure = layers_figure(
        Choices("switch", "beta1", steps, chosen, ["all parameters"], candidates, [(6, 0)], unknown(chosen))
    )
    (mesh,) = figure.axes[0].collections
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0.5, 1.5, 5.5, 6.5, 7.5]


def test_groups_with_other_candidates():
    """One colour per value, whatever its place in a group's list."""
    candidates = [adams("0.99", "0.8"), adams("0.5", "0.8", "0.99")]
    chosen = np.array([[0, 2], [1, 0]])
    choices = Choices(
        "switch_parameter_wise", "beta1", np.array([1, 2]), chosen, ["a", "b"], candidates, [], unknown(chosen)
    )
    assert all_candidates(choices) == adams("0.5", "0.8", "0.99")
    assert candidate_indices(choices, all_candidates(choices)).tolist() == [[2, 2], [1, 0]]


@pytest.mark.parametrize(("count", "most"), [(1, 60), (59, 60), (60, 60), (61, 60), (5000, 600)])
def test_stretches(count, most):
    starts = stretches(count, most)
    assert starts[0] == 0
    assert len(starts) <= most
    assert len(set(np.diff(starts))) <= 1
    assert starts[-1] < count


@pytest.mark.parametrize(("count", "least"), [(19, 20), (20, 20), (39, 20), (61, 20), (5000, 100)])
def test_no_stretch_is_too_short(count, least):
    starts = stretches(count, 60, least)
    lengths = np.diff([*starts, count])
    assert lengths.sum() == count
    assert lengths.min() >= min(least, count)
    assert len(starts) == max(1, count // max(least, -(-count // 60)))


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_colours_differ_in_brightness(count):
    """So that they differ for every kind of colour vision, and in grey."""
    brightness = [np.dot(to_rgb(color), [0.2126, 0.7152, 0.0722]) for color in palette(count)]
    assert all(b - a > 0.1 for a, b in pairwise(brightness))


def test_margins_are_those_of_the_choices(tmp_path):
    """Median, quartiles and the middle nine tenths over the parameters of each step."""
    write_run(tmp_path, [lora_names(2)], steps=30, reset_every=10)
    choices = read_choices(tmp_path)
    figure = margins_figure(choices)
    median, crosses = figure.axes[0].lines
    assert median.get_ydata()[:-1] == pytest.approx(np.median(choices.margins, axis=1))
    assert crosses.get_xdata().tolist() == [10, 20, 30]
    for band, (low, high) in zip(figure.axes[0].collections, ((5, 95), (25, 75)), strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx(np.percentile(choices.margins, high, axis=1).max())
        assert heights.min() == pytest.approx(np.percentile(choices.margins, low, axis=1).min())


def test_margins_below_zero_are_shown(tmp_path):
    """Of 'switch' with a moving average, which can keep a candidate that is not the step's best."""
    choices = read_run(tmp_path, "switch")
    assert np.nanmin(choices.margins) < 0
    low, high = margins_figure(choices).axes[0].get_ylim()
    assert low == pytest.approx(np.nanmin(choices.margins), rel=0.2)
    assert high == 1
