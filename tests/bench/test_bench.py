"""``gap-hf bench``: who is in the table, and what is counted. What is timed is not tested, only that it is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import gap_hf
from gap_hf.bench import BenchError, Options, Result, run
from gap_hf.bench import contenders as contenders_module
from gap_hf.bench.plan import Need, Plan, pack, plan
from gap_hf.bench.result import Row, merge
from gap_hf.bench.runner import plan_cases, run_process
from gap_hf.bench.workloads import WORKLOADS, Workload
from gap_hf.cli import app

from ..optim.twins import needs_fused

pytestmark = needs_fused

TINY = Workload("tiny", "for tests", ((40, 50), (2000,), (16, 125)))
MANY = Workload("many", "for tests", ((2000,),) * 12)
HERE = ("torch-", "literal", "gap", "rf", "adai", "adams", "if", "itself", "over")
QUICK = Options(("tiny",), rounds=2, only=HERE, copy_bytes=1 << 16)
NAMES = [
    *["torch-fused", "torch-foreach", "torch-loop", "literal-switch", "literal-each"],
    *[f"gap-{kernel}-{type}" for kernel in ("loop", "foreach", "fused", "bf16", "8bit") for type in ("switch", "each")],
    *[f"gap-{mix}" for mix in ("mix", "mix-score", "mix-each", "qhm", "qhm-score", "qhm-each")],
    *["rf-adamw", "rf-rmsprop", "adai", "adams", "if-shampoo", "itself-adamw", "over-adamw"],
]


@pytest.fixture(autouse=True)
def small_and_self_contained(monkeypatch):
    monkeypatch.setitem(WORKLOADS, "tiny", TINY)
    monkeypatch.setitem(WORKLOADS, "many", MANY)
    monkeypatch.setattr(contenders_module, "installed", lambda package: package == "torch")


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORKLOADS, "tiny", TINY)
        patch.setitem(WORKLOADS, "many", MANY)
        patch.setattr(contenders_module, "installed", lambda package: package == "torch")
        return run(Options(("tiny", "many"), rounds=2, only=HERE, copy_bytes=1 << 16))


def rows(result: Result) -> dict[str, Row]:
    return {row.name: row for row in result.rows}


# ---------------------------------------------------------------- what is measured
def test_everybody_is_there(results):
    for result in results:
        assert [row.name for row in result.rows] == NAMES
        others = [f"{kind}-{name}" for kind in ("itself", "over") for name in ("lion", "adabelief", "ademamix")]
        assert result.absent == {
            **dict.fromkeys([*others, "over-mixed", "over-picked"], "pytorch_optimizer is not installed"),
        }
        assert all(len(row.seconds) == len(row.ratios) == 2 for row in result.rows)
        assert len(result.copy_seconds) == 2 * len(NAMES)


def test_state(results):
    per_parameter = {name: row.state_bytes / TINY.elements for name, row in rows(results[0]).items()}
    expected = {"torch": 8, "literal": 16, "gap-loop": 12, "gap-foreach": 12, "gap-fused": 12, "gap-bf16": 8}
    expected |= {"gap-8bit": 6}
    expected |= {"rf": 8, "adai": 12, "adams": 12, "itself-adamw": 8}
    expected["over-adamw"] = 8 + 4 * 3 / TINY.elements  # the candidate's own counts of steps
    factors = 40**2 + 50**2 + 2000 + 16**2 + 125**2  # each with a momentum; that of the long vector is diagonal
    expected["if"] = 4 + 8 * factors / TINY.elements
    expected |= {"gap-mix": 12, "gap-qhm": 8}  # QHM's memory is Adam's: the gradient needs no buffer
    for name, got in per_parameter.items():
        beginning = next(beginning for beginning in expected if name.startswith(beginning))
        # each tensor's count of steps, 8 bytes at most
        assert expected[beginning] <= got <= expected[beginning] + 8 * 3 / TINY.elements, name


def test_bytes_that_must_be_moved(results):
    """Per element: AdamW's 28; of GAP's switch a second pass reads a first moment, the second one and the value."""
    expected = {"torch-fused": 28, "gap-fused-switch": 44, "gap-fused-each": 36, "gap-bf16-switch": 34}
    expected |= {"gap-bf16-each": 28, "gap-8bit-switch": 29, "gap-8bit-each": 24, "gap-mix": 36, "gap-mix-score": 48}
    expected |= {"gap-qhm": 28, "gap-qhm-score": 40, "gap-qhm-each": 28}
    found = rows(results[0])
    assert {name: found[name].moved / TINY.elements for name in expected} == expected
    assert found["literal-switch"].moved is None


def test_another_version_beside_this_one():
    command = [
        sys.executable,
        "-c",
        "from gap_hf.cli import app; app()",
        "bench",
        "--workload",
        "vit",
        "--rounds",
        "1",
        "--warm",
    ]
    command += ["--before", str(Path(gap_hf.__file__).parents[1]), "--only", "before-8bit", "--only", "gap-8bit"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    names = [line.split()[0] for line in done.stdout.splitlines() if "-8bit-" in line]
    assert names == ["gap-8bit-switch", "gap-8bit-each", "before-8bit-switch", "before-8bit-each"]


def test_literal_reads_once_per_parameter(results):
    for result in results:
        for type in ("switch", "each"):
            assert rows(result)[f"literal-{type}"].counts["reads"] == result.tensors


def test_operations_of_fused_do_not_grow_with_tensors(results):
    few, many = map(rows, results)
    for name in ("torch-fused", "gap-fused-switch", "gap-fused-each", "gap-bf16-switch", "gap-8bit-each"):
        assert few[name].counts["operations"] == many[name].counts["operations"] < 60
        assert few[name].counts["reads"] == many[name].counts["reads"] <= 2
    for name in ("torch-loop", "literal-switch", "gap-loop-each"):
        assert many[name].counts["operations"] > 2 * few[name].counts["operations"]


def test_scratch(results):
    scratch = {name: row.counts["scratch"] for name, row in rows(results[1]).items()}
    tensor = 4 * 2000
    assert scratch["torch-foreach"] == pytest.approx(12 * tensor, abs=1000)
    assert scratch["torch-loop"] == pytest.approx(3 * tensor, abs=1000)
    for name in ("torch-fused", "gap-fused-switch", "gap-fused-each"):
        assert scratch[name] < tensor


def test_parameters_are_shared_and_gradients_kept(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: seen.append(self.param_groups[0]["params"]))
    run(Options(("tiny",), rounds=2, only=("torch-",), copy_bytes=1 << 16))
    first, *others = seen
    assert all(theirs[i] is first[i] for theirs in others for i in range(len(first)))
    for p, q in zip(first, TINY.tensors(torch.device("cpu"), torch.float32), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_more_candidates_more_state():
    result = run(Options(("tiny",), candidates=5, rounds=1, only=("gap-fused", "literal"), copy_bytes=1 << 16))[0]
    state = {name: round(row.state_bytes / TINY.elements) for name, row in rows(result).items()}
    expected = {"gap-fused-switch": 24, "gap-fused-each": 24, "literal-switch": 40, "literal-each": 40}
    assert state == {"torch-fused": 8, **expected}


def test_what_grows():
    by_question = {}
    for case in plan_cases(Options(("tiny",), growth=True)):
        by_question.setdefault(case.question.split(",")[0], []).append(case)
    candidates, tensors, elements = (by_question[question] for question in ("candidates", "tensors", "elements"))
    assert [case.candidates for case in candidates] == [1, 2, 3, 5]
    assert {case.workload.elements for case in tensors} == {1 << 22}
    assert [len(case.workload.shapes) for case in tensors] == [1, 8, 64, 512, 4096]
    assert {len(case.workload.shapes) for case in elements} == {64}


# ---------------------------------------------------------------- memory
def test_who_does_not_fit_is_named_with_numbers():
    needed = 8 * TINY.elements  # parameters and gradients
    chosen = contenders_module.select(["gap-fused-each", "literal-each"])
    found = plan(chosen, TINY, 2, torch.device("cpu"), torch.float32, needed + 13 * TINY.elements, needed)
    assert [[c.name for c in batch] for batch in found.batches] == [["torch-fused"], ["gap-fused-each"]]
    assert list(found.absent) == ["literal-each"]
    assert "needs 0.0 GB, and 0.0 GB can be had on cpu" in found.absent["literal-each"]


def test_not_even_the_baseline_fits(monkeypatch):
    monkeypatch.setattr("gap_hf.bench.runner.usable_memory", lambda device: int(20e9))
    with pytest.raises(BenchError, match="needs 29.8 GB of memory on cpu .* and 20.0 GB can be had") as caught:
        run(Options(("1b",), copy_bytes=5 * 10**9))
    assert "\n" not in str(caught.value)


def test_batches():
    baseline, *others = contenders_module.select(["gap-fused", "literal"])
    literal_switch, literal_each, gap_switch, gap_each = others
    needs = {contender.name: Need(10, 0) for contender in (baseline, gap_switch, gap_each)}
    needs |= {literal_switch.name: Need(25, 0), literal_each.name: Need(20, 20)}
    batches, without_room = pack([baseline, *others], needs, 30)
    assert batches == [[baseline], [literal_switch], [baseline, gap_switch, gap_each]]
    assert without_room == [literal_each.name]


def test_batches_have_ratios_to_the_same_baseline(monkeypatch):
    monkeypatch.setattr(
        "gap_hf.bench.runner.plan",
        lambda chosen, *_: Plan([chosen[:1], chosen[1:2], [chosen[0], *chosen[2:]]], {}),
    )
    result = run(Options(("tiny",), rounds=3, only=("literal", "gap-fused"), copy_bytes=1 << 16))[0]
    assert [row.name for row in result.rows] == NAMES[:1] + NAMES[3:5] + NAMES[9:11]
    assert len(result.baseline.seconds) == 6
    assert all(len(row.ratios) == len(row.seconds) for row in result.rows)
    alone = result.rows[1]
    expected = 1e3 * alone.seconds[0] / result.baseline.milliseconds
    assert alone.ratios[0] == pytest.approx(expected)


# ---------------------------------------------------------------- several processes
def test_merged_processes(results):
    result = results[0]
    again = Result.from_json(json.loads(json.dumps(result.to_json())))
    assert again == result
    slower = Result.from_json(result.to_json())
    for row in slower.rows[1:]:
        row.ratios = [3 * ratio for ratio in row.ratios]
    merged = merge([result, slower, slower])
    assert merged.processes == 3
    assert [row.name for row in merged.rows] == NAMES
    assert merged.rows[4].ratio == pytest.approx(3 * result.rows[4].ratio)
    assert len(merged.copy_seconds) == 3


def test_child_process():
    """What ``--repeats`` starts."""
    (result,) = run_process(Options(("vit",), only=("gap-fused-each",), rounds=1, copy_bytes=1 << 16, threads=1))
    assert (result.tensors, result.elements) == (48, 589_824)
    assert [row.name for row in result.rows] == ["torch-fused", "gap-fused-each"]
    assert result.machine["threads"] == "1"


def test_repeats(monkeypatch, results):
    asked = []
    monkeypatch.setattr("gap_hf.bench.runner.run_process", lambda options: asked.append(options) or results)
    shown = CliRunner().invoke(app, ["bench", "--workload", "tiny", "--workload", "many", "--repeats", "3"])
    assert shown.exit_code == 0, shown.output
    assert [options.repeats for options in asked] == [1, 1, 1]
    assert shown.stdout.count("(3 processes)") == 2


def test_a_process_that_fails(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="a warning\nout of luck\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: failed)
    result = CliRunner().invoke(app, ["bench", "--workload", "tiny", "--repeats", "2"])
    assert result.exit_code == 1
    assert result.stderr == "gap-hf: a process of the benchmark failed with status 1: out of luck\n"


# ---------------------------------------------------------------- the command
def test_command(tmp_path):
    file = tmp_path / "bench.json"
    arguments = ["bench", "--workload", "tiny", "--workload", "many", "--rounds", "1", "--warm", "--json", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    first, second = (result.stdout.index(f"\n{name}: for tests") for name in ("tiny", "many"))
    for text in (result.stdout[first:second], result.stdout[second:]):
        lines = [line.split() for line in text.splitlines()]
        assert [words[0] for words in lines if words and words[0] in NAMES] == NAMES
        assert "schedulefree: schedulefree is not installed" in text
        assert "operations" in text
    assert f"torch {torch.__version__}" in result.stdout
    tables = json.loads(file.read_text())
    assert [table["workload"] for table in tables] == ["tiny", "many"]
    assert [row["name"] for row in tables[0]["rows"]] == NAMES
    assert tables[0]["rows"][0]["state_bytes_per_parameter"] == pytest.approx(8, abs=0.01)


def test_growth_is_shown(monkeypatch):
    cases = [
        case for case in plan_cases(Options(("tiny",), growth=True)) if case.answer_to in ("K = 1", "512", "8,192")
    ]
    monkeypatch.setattr("gap_hf.bench.runner.plan_cases", lambda options: cases)
    quick = run(Options(("tiny",), rounds=1, growth=True, copy_bytes=1 << 16))
    monkeypatch.setattr("gap_hf.bench.run", lambda options, bar: quick)
    result = CliRunner().invoke(app, ["bench", "--growth"])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [words[0] for words in lines if words and words[0] in ("K", "512", "8,192")] == ["K", "512", "8,192"]
    assert lines.count(["torch-fused", "ms", "gap-fused-switch", "gap-fused-each"]) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workload", "large"], "there is no workload 'large'; there are vit, llama, 1b"),
        (["--only", "adamw"], "there is no contender 'adamw'; there are torch-fused, torch-foreach"),
        (["--device", "tpu"], "--device 'tpu' is unknown; expected cpu, cuda or cuda:1"),
        (["--device", "cuda:99"], "there is no device cuda:99"),
        (["--dtype", "float8"], "--dtype 'float8' is unknown; expected one of float32, bfloat16, float16"),
        (["--rounds", "0"], "--rounds 0 is out of range; expected 1 or more"),
        (["--candidates", "0"], "--candidates 0 is out of range"),
        (["--repeats", "-1"], "--repeats -1 is out of range"),
        (["--workload", "tiny", "--json", "no/such/place.json"], "no/such/place.json"),
        (
            ["--workload", "tiny", "--before", "docs"],
            "--before docs: there is no gap_hf/optim in it",
        ),
        (["--workload", "tiny", "--only", "torchao"], "nobody to compare: torchao-8bit: torchao is not installed"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, says):
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("gap-hf: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_failing_contender_is_named(monkeypatch):
    def broken(params, K):
        raise RuntimeError("it needs a license\nand more")

    broken_one = contenders_module.Contender("broken", broken)
    everyone = [*contenders_module.from_torch(), broken_one]
    monkeypatch.setattr(contenders_module, "contenders", lambda before: everyone)
    result = CliRunner().invoke(app, ["bench", "--workload", "tiny", "--rounds", "1"])
    assert result.exit_code == 0
    assert "broken: it needs a license\n" in result.stdout


def test_workloads_are_what_they_are_called():
    assert (len(WORKLOADS["vit"].shapes), WORKLOADS["vit"].elements) == (48, 589_824)
    assert (len(WORKLOADS["llama"].shapes), WORKLOADS["llama"].elements) == (448, 41_943_040)
    assert WORKLOADS["1b"].elements == 1_235_814_400
    short = WORKLOADS["1b"].shrunk(1 << 20)
    assert len(short.shapes) == len(WORKLOADS["1b"].shapes)
    assert 1 << 20 <= short.elements < 1.2 * (1 << 20)
