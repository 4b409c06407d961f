"""What headers say, and files of earlier versions: 1, which 0.2.0 wrote, and 2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gap_hf.candidate import Candidate
from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME, MIXES, TYPES, Header, HeaderGroup, read_header
from gap_hf.choices.writer import ChoiceWriter
from gap_hf.optim import rules

from .files import CONSTANT, HEADER, MIX, OLD, SWITCH, VERSION_2, WISE_MIX, adams
from .record_runs import record

ADAMW = [*[adams("0.8", "0.95", "0.99")] * 2, adams("0.9/0.99", "0.95/0.999")]
SGDM = [[Candidate("0.9", 0.9, "sgdm"), Candidate("0.95", 0.95, "sgdm"), Candidate("0.99", 0.99, "sgdm")]]


@pytest.fixture(scope="module")
def today(tmp_path_factory) -> Path:
    """The same runs as in the old files, recorded now."""
    path = tmp_path_factory.mktemp("today")
    record(path)
    return path


def test_the_types_are_the_optimizers():
    """Listed there for themselves, since reading a file needs no torch."""
    assert {name: type.per_parameter for name, type in rules.TYPES.items() if name != "default"} == TYPES
    assert {name for name, type in rules.TYPES.items() if type.rule is not None and type.rule.mixes} == set(MIXES)


# ---------------------------------------------------------------- version 3
def test_a_header_reads_back():
    odd = HeaderGroup([Candidate("muon", None, "muon"), Candidate("0.9/0.99", 0.9, "adam")], ["é"])
    for header in (HEADER, SWITCH, MIX, WISE_MIX, CONSTANT, HEADER._replace(start=3, groups=[odd])):
        line = header.to_json()
        assert line["gap_hf"] == 3
        assert read_header(json.loads(json.dumps(line))) == header


def test_weights_are_in_the_file_where_there_are_some():
    assert [group.get("weights") for group in CONSTANT.to_json()["groups"]] == [[0.3, 0.7]] * 2
    assert not any("weights" in group for header in (HEADER, MIX) for group in header.to_json()["groups"])


@pytest.mark.parametrize(
    "weights",
    [[0.3], [0.3, 0.3, 0.4], [], [0.3, "0.7"], [0.3, None], [True, False], [-0.3, 1.3], [0.1, 0.2], [0.9, 0.9]],
)
def test_bad_weights(weights):
    line = CONSTANT.to_json()
    line["groups"][1]["weights"] = weights
    with pytest.raises(ValueError, match="its weights are .*; expected 2 numbers >= 0 that add up to 1"):
        read_header(line)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400])
def test_weights_are_finite(number):
    line = CONSTANT.to_json()
    line["groups"][0]["weights"] = [number, 0.7]
    with pytest.raises(ValueError, match="its weights are"):
        read_header(line)


def test_weights_are_a_list():
    line = CONSTANT.to_json()
    line["groups"][0]["weights"] = 0.3
    with pytest.raises(ValueError, match="its 'weights' is not list"):
        read_header(line)


def test_a_mix_goes_on_with_other_weights():
    """They are an option of the run; the candidates are the same."""
    other = CONSTANT._replace(groups=[group._replace(weights=[0.5, 0.5]) for group in MIX.groups])
    assert other.continues(CONSTANT)
    assert MIX.continues(CONSTANT)
    assert not MIX.continues(SWITCH)


def test_candidates_are_objects_in_the_file():
    groups = HEADER.to_json()["groups"]
    assert groups[0]["candidates"] == [
        {"label": "0.8", "value": 0.8, "family": "adam"},
        {"label": "0.99", "value": 0.99, "family": "adam"},
    ]


GOOD = {"label": "0.8", "value": 0.8, "family": "adam"}


@pytest.mark.parametrize(
    ("candidates", "says"),
    [
        ([], r"its candidates are \[\]"),
        ("0.8", "its 'candidates' is not list"),
        (["0.8"], "one of its candidates is not a dict"),
        ([GOOD, {**GOOD, "label": 3}], "its 'label' is not str"),
        ([{**GOOD, "family": None}], "its 'family' is not str"),
        ([{"label": "0.8", "value": 0.8}], "it has no 'family'"),
        ([{"label": "0.8", "family": "adam"}], "it has no 'value'"),
        ([{**GOOD, "value": "0.8"}], "its 'value' is not float or int or NoneType"),
        ([{**GOOD, "value": True}], "its 'value' is not float or int or NoneType"),
        ([{**GOOD, "value": float("inf")}], "the value of its candidate '0.8' is inf"),
        ([{**GOOD, "value": float("nan")}], "the value of its candidate '0.8' is nan"),
    ],
)
def test_bad_candidates(candidates, says):
    line = HEADER.to_json() | {"groups": [{"candidates": candidates, "parameters": ["a"]}]}
    with pytest.raises(ValueError, match=says):
        read_header(line)


# ---------------------------------------------------------------- version 2
@pytest.mark.parametrize("name", ["adamw-wise", "sgdm-switch"])
def test_version_2_had_no_weights(today, name):
    old, new = read_choices(VERSION_2 / name), read_choices(today / name)
    assert '{"gap_hf":2,' in (VERSION_2 / name / FILENAME).read_text()
    assert (old.damaged, old.weights) == ({}, None)
    assert (old.type, old.parameters, old.candidates) == (new.type, new.parameters, new.candidates)
    assert old.choices.tolist() == new.choices.tolist()
    assert old.resets == new.resets
    np.testing.assert_allclose(new.margins, old.margins, rtol=1e-4)


# ---------------------------------------------------------------- version 1
def version_1(candidate: str, labels: list) -> dict:
    groups = [{"candidates": labels, "parameters": ["a"]}]
    return {"gap_hf": 1, "start": 0, "type": "switch", "candidate": candidate, "groups": groups}


def test_candidates_of_version_1():
    assert read_header(version_1("beta1", ["0.9", "0.9/0.99"])).groups[0].candidates == adams("0.9", "0.9/0.99")
    assert read_header(version_1("momentum", ["0"])).groups[0].candidates == [Candidate("0", 0.0, "sgdm")]
    own = read_header(version_1("decay", ["1e-05"])).groups[0].candidates
    assert own == [Candidate("1e-05", 1e-5, "decay")], "a family of somebody's own goes by what it called a candidate"


@pytest.mark.parametrize("label", ["fast", "nan", "inf", "", "0.9/", "0.9/0.99/0.999"])
def test_bad_label_of_version_1(label):
    with pytest.raises(ValueError, match="expected a number, or a pair like '0.9/0.99'"):
        read_header(version_1("beta1", ["0.8", label]))


@pytest.mark.parametrize("label", [None, 0.8, GOOD])
def test_candidates_of_version_1_are_text(label):
    with pytest.raises(ValueError, match="its candidates are not all text"):
        read_header(version_1("beta1", ["0.8", label]))


@pytest.mark.parametrize(("name", "candidates"), [("adamw-wise", ADAMW), ("sgdm-switch", SGDM)])
def test_files_of_0_2_0(name, candidates):
    """Against the lines themselves."""
    lines = [json.loads(line) for line in (OLD / name / FILENAME).read_text().splitlines()]
    headers = [line for line in lines if "gap_hf" in line]
    assert [header["gap_hf"] for header in headers] == [1] * len(headers)
    choices = read_choices(OLD / name)
    assert choices.damaged == {}
    assert choices.steps.tolist() == list(range(1, 13))
    assert choices.candidates == candidates
    assert choices.resets
    rows = {line["step"]: line for line in lines if "step" in line}  # a resumed run's come later
    for step, found, margins in zip(choices.steps.tolist(), choices.choices, choices.margins, strict=True):
        row = rows[step]
        assert "".join(map(str, found)) == "".join(row["choice"])
        if name == "adamw-wise":
            texts = [np.nan if c == "-" else int(c, 36) / 35 for c in "".join(row["margin"])]
            assert margins.tolist() == pytest.approx(texts, nan_ok=True)
        elif None not in row["J"]:
            best, other = sorted(row["J"], reverse=True)[:2]
            assert margins.item() == pytest.approx((best - other) / (abs(best) + abs(other)))
        else:
            assert np.isnan(margins.item())


@pytest.mark.parametrize("name", ["adamw-wise", "sgdm-switch"])
def test_the_same_run_is_recorded_as_by_0_2_0(today, name):
    old, new = read_choices(OLD / name), read_choices(today / name)
    assert (new.type, new.candidate, new.parameters) == (old.type, old.candidate, old.parameters)
    assert new.candidates == old.candidates
    assert new.steps.tolist() == old.steps.tolist()
    assert new.choices.tolist() == old.choices.tolist()
    assert new.resets == old.resets
    np.testing.assert_allclose(new.margins, old.margins, rtol=1e-4)


@pytest.mark.parametrize("old", [OLD, VERSION_2], ids=["1", "2"])
@pytest.mark.parametrize("name", ["adamw-wise", "sgdm-switch"])
def test_a_run_of_an_earlier_version_that_is_resumed_keeps_its_steps(tmp_path, old, name):
    """Version 3 has exact values and families where version 1 had labels: it is the same run all the same."""
    shutil.copy(old / name / FILENAME, tmp_path)
    before = read_choices(tmp_path)
    lines = (tmp_path / FILENAME).read_text().splitlines()
    old = read_header(json.loads(lines[0]))
    groups = [
        HeaderGroup([c._replace(value=c.value + 1e-9, family="own") for c in group.candidates], group.parameters)
        for group in old.groups
    ]
    writer = ChoiceWriter(tmp_path / FILENAME, Header(9, old.type, old.candidate, groups))
    writer.write(10, [1, 1] if name == "sgdm-switch" else [[1, 1], [1]], [], None)
    writer.close()
    choices = read_choices(tmp_path)
    assert choices.steps.tolist() == list(range(1, 11))
    assert choices.choices[:9].tolist() == before.choices[:9].tolist()
    assert choices.candidates[0] == groups[0].candidates
