"""Comparisons in pairs, the tables and the figures, on made-up results."""

from math import sqrt

import pytest
from evidence.analyse import report
from evidence.compare import Results, load, paired
from evidence.plot import STYLE, figures
from evidence.table import Row, add, read
from matplotlib import rc_context

OFFSETS = {"fixed_0.5": 0.0, "fixed_0.9": 0.1, "mix_.5_.9_.99": -0.02, "switch_.5_.9_.99": 0.03}
BEST = {"fixed_0.9": -8}
"""The best learning rates' exponents; -7 for the others."""


def made_up(study="mlp_b32", seeds=4):
    """Losses with a common part for each seed, which pairing takes out, and a bowl over learning rates."""
    for name, offset in OFFSETS.items():
        for seed in range(seeds):
            for k in range(-10, -4):
                loss = 1 + seed + offset + 0.01 * (k - BEST.get(name, -7)) ** 2 + 0.001 * (seed % 2)
                shares = [0.75, 0.25, 0.0] if "_." in name else [1.0]
                yield Row(study, name, seed, 2.0**k, loss, loss, 99.0, False, shares, shares)


def test_pairs():
    value = paired({0: 1.0, 1: 2.0, 2: 4.0, 9: 0.0}, {0: 0.5, 1: 1.0, 2: 2.5, 8: 0.0})
    assert value.mean == pytest.approx(1.0)
    assert value.half == pytest.approx(4.303 * 0.5 / sqrt(3))
    assert value.seeds == 3
    assert not value.clear
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_comparisons():
    results = Results(made_up())
    assert results.best_fixed() == "fixed_0.5"
    assert results.best("fixed_0.9").k == -8
    assert not results.best("fixed_0.9").edge
    assert results.regret("mix_.5_.9_.99").mean == pytest.approx(-0.02)
    assert results.at_tuned("mix_.5_.9_.99").mean == pytest.approx(-0.02 + 0.01 - 0.1)
    assert results.against("switch_.5_.9_.99", "fixed_0.5").mean == pytest.approx(0.03)
    assert results.share("switch_.5_.9_.99", -7) == 0.75


def test_a_diverged_run_counts_as_the_start():
    row = Row("mlp_b32", "qhm", 0, 1.0, float("inf"), float("inf"), 2.5, True, [1.0], [1.0])
    assert row.counted == 2.5


def test_written_and_read(tmp_path):
    rows = list(made_up())
    add("mlp_b32", reversed(rows), tmp_path)
    first = (tmp_path / "mlp_b32.csv").read_bytes()
    assert first.splitlines()[0] == b"study,contender,seed,lr,loss,train,start,diverged,smallest,shares,weights"
    add("mlp_b32", read("mlp_b32", tmp_path).values(), tmp_path)
    assert (tmp_path / "mlp_b32.csv").read_bytes() == first
    assert load(["mlp_b32", "cnn"], tmp_path).keys() == {"mlp_b32"}


def test_tables_and_figures(tmp_path):
    add("mlp_b32", made_up(), tmp_path)
    add("quadratic", made_up("quadratic"), tmp_path)
    tables = report(tmp_path)
    assert "| `mix_.5_.9_.99` | -0.020 ± 0.000* |" in tables
    assert "0.750" in tables
    written = []
    for directory in (tmp_path / "a", tmp_path / "b"):
        directory.mkdir()
        with rc_context(STYLE):
            for name, figure in figures(tmp_path).items():
                figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        written.append({path.name: path.read_bytes() for path in directory.iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == 4
