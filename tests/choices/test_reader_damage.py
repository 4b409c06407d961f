"""Choices files with damage: it costs the lines that have it, which are named; and what is no choices file at all."""

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME

from .files import CONSTANT, HEADER, MIX, SWITCH, WISE_MIX, rewrite, write, write_mix, write_three_steps

DAMAGE = {
    '{"step":2,"ch\n': "not JSON",
    "\0" * 12 + "\n": "not JSON",
    "\udcff\n": "not JSON",
    "[" * 100_000 + "\n": "not JSON",
    '{"step":' + "9" * 5000 + "}\n": "not JSON",
    "17\n": "not a line of a choices file",
    "[]\n": "not a line of a choices file",
    '{"step":2}\n': "it has no 'choice'",
    '{"step":2,"choice":["11"]}\n': "its 'choice' is of [2] parameters, the header's groups have [2, 1]",
    '{"step":2,"choice":["1","0"]}\n': "its 'choice' is of [1, 1] parameters",
    '{"step":2,"choice":[["1","1"],["0"]]}\n': "its 'choice' is of [None, None] parameters",
    '{"step":2,"choice":"11"}\n': "its 'choice' is not list",
    '{"step":2,"choice":["12","0"]}\n': "it chooses candidate 2 of 2",
    '{"step":2,"choice":["1-","0"]}\n': "it has '-' in the place of a digit",
    '{"step":2,"choice":["1٣","0"]}\n': "it has '٣' in the place of a digit",
    '{"step":2,"choice":["11","0"],"margin":["5"]}\n': "its 'margin' is of [1] parameters",
    '{"step":2,"choice":["11","0"],"margin":["5?","0"]}\n': "it has '?' in the place of a digit",
    '{"step":2,"choice":["11","0"],"reset":[[2,0]]}\n': "it resets a parameter that the header does not have",
    '{"step":2,"choice":["11","0"],"reset":[[0,2]]}\n': "it resets a parameter that the header does not have",
    '{"step":2,"choice":["11","0"],"reset":[[0,0.5]]}\n': "it resets a parameter that the header does not have",
    '{"step":2,"choice":["11","0"],"reset":[[0]]}\n': "not enough values",
    '{"step":2,"choice":["11","0"],"reset":[7]}\n': "cannot unpack",
    '{"choice":["11","0"]}\n': "it has no 'step'",
    '{"step":"two","choice":["11","0"]}\n': "its 'step' is not int",
    '{"step":true,"choice":["11","0"]}\n': "its 'step' is not int",
    '{"step":Infinity,"choice":["11","0"]}\n': "its 'step' is not int",
    '{"step":1e999,"choice":["11","0"]}\n': "its 'step' is not int",
    '{"step":9223372036854775808,"choice":["11","0"]}\n': "its 'step' is 9223372036854775808",
}


@pytest.mark.parametrize(("bad", "why"), DAMAGE.items(), ids=range(len(DAMAGE)))
def test_damaged_line_costs_that_line(tmp_path, caplog, bad, why):
    lines = write_three_steps(tmp_path)
    (tmp_path / FILENAME).write_bytes("".join([*lines[:2], bad, lines[3]]).encode(errors="surrogateescape"))
    choices = read_choices(tmp_path)
    assert choices.steps.tolist() == [1, 3]
    assert choices.choices.tolist() == [[0, 1, 2], [1, 0, 1]]
    assert list(choices.damaged) == [3]
    assert why in choices.damaged[3]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{FILENAME}: lines that can't be read are left out (line 3: {choices.damaged[3]})" in caplog.text


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ('{"step":2,"choice":"0","J":[1.0]}', "it has 1 scores for 2 candidates"),
        ('{"step":2,"choice":"0","J":[1.0,"x"]}', "its scores are not all numbers"),
        ('{"step":2,"choice":"0","J":[[1],[2]]}', "its scores are not all numbers"),
        ('{"step":2,"choice":"0","J":5}', "its 'J' is not list"),
        ('{"step":2,"choice":"0","J":[1,1' + "0" * 400 + "]}", "int too large"),
        ('{"step":2,"choice":["0"],"J":[1.0,2.0]}', "its 'choice' is not str"),
        ('{"step":2,"choice":"01","J":[1.0,2.0]}', "its 'choice' is of [2] parameters, the header's groups have [1]"),
    ],
)
def test_damaged_line_of_switch(tmp_path, bad, why):
    write(tmp_path, SWITCH, [(1, [1, 1], False), (3, [0, 0], True)])
    header, first, last = (tmp_path / FILENAME).read_text().splitlines()
    rewrite(tmp_path, [f"{line}\n" for line in (header, first, bad, last)])
    choices = read_choices(tmp_path)
    assert choices.steps.tolist() == [1, 3]
    assert why in choices.damaged[3]


GOOD = '"step":2,"choice":["00","0"]'
DAMAGED_WEIGHTS = {
    "{" + GOOD + "}": "it has no 'weights', and neither has the header",
    "{" + GOOD + ',"weights":5}': "its 'weights' is not list",
    "{" + GOOD + ',"weights":[]}': "its 'weights' are of 0 groups, the header has 2",
    "{" + GOOD + ',"weights":[["zz","00"]]}': "its 'weights' are of 1 groups, the header has 2",
    "{" + GOOD + ',"weights":[["zz","00"],"z00"]}': "its 'weights' is not list",
    "{"
    + GOOD
    + ',"weights":[["zz"],["z","0","0"]]}': "its 'weights' is of [2] parameters, the header's groups have [2, 2]",
    "{" + GOOD + ',"weights":[["z","0"],["z","0","0"]]}': "its 'weights' is of [1, 1] parameters",
    "{" + GOOD + ',"weights":[[1,0],["z","0","0"]]}': "its 'weights' is of [None, None] parameters",
    "{" + GOOD + ',"weights":[["z-","00"],["z","0","0"]]}': "it has '-' in the place of a digit",
    "{" + GOOD + ',"weights":[["zZ","00"],["z","0","0"]]}': "it has 'Z' in the place of a digit",
    "{" + GOOD + ',"weights":[["z0","00"],["z","0","0"]]}': "its 'weights' of a parameter are all 0",
}


@pytest.mark.parametrize(("bad", "why"), DAMAGED_WEIGHTS.items(), ids=range(len(DAMAGED_WEIGHTS)))
def test_damaged_weights(tmp_path, bad, why):
    row = [np.array([[0.25, 0.75], [1, 0]]), np.array([[0.5, 0.25, 0.25]])]
    write_mix(tmp_path, WISE_MIX, [row] * 3)
    lines = (tmp_path / FILENAME).read_text().splitlines(keepends=True)
    rewrite(tmp_path, [*lines[:2], f"{bad}\n", lines[3]])
    choices = read_choices(tmp_path)
    assert choices.steps.tolist() == [1, 3]
    assert choices.weights.shape == (2, 3, 3)
    assert list(choices.damaged) == [3]
    assert why in choices.damaged[3]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "it has no 'weights', and neither has the header"),
        (',"weights":"0.5"', "its 'weights' is not list"),
        (',"weights":[0.5]', "its weights are [0.5]; expected 2 numbers >= 0 that add up to 1"),
        (',"weights":[0.5,null]', "its weights are [0.5, None]"),
        (',"weights":[NaN,1]', "its weights are [nan, 1]"),
        (',"weights":[-1,2]', "its weights are [-1, 2]"),
        (',"weights":[1,1' + "0" * 400 + "]", "its weights are [1, 1"),
        (',"weights":[[1,0],[1,0]]', "its weights are [[1, 0], [1, 0]]"),
    ],
)
def test_damaged_weights_of_one_choice_for_all(tmp_path, bad, why):
    write_mix(tmp_path, MIX, [[np.array([0.25, 0.75])] * 2] * 3)
    lines = (tmp_path / FILENAME).read_text().splitlines(keepends=True)
    rewrite(tmp_path, [*lines[:2], '{"step":2,"choice":"0"' + bad + "}\n", lines[3]])
    choices = read_choices(tmp_path)
    assert choices.steps.tolist() == [1, 3]
    assert why in choices.damaged[3]


def test_damaged_header_of_constant_weights(tmp_path):
    """Its steps are lost: the weights before it are not theirs."""
    write(tmp_path, CONSTANT, [(1, [1, 1], False), (2, [1, 1], False)])
    write(tmp_path, CONSTANT._replace(start=2), [(3, [1, 1], False)])
    lines = (tmp_path / FILENAME).read_text().splitlines(keepends=True)
    for groups in ([{**group, "weights": [0.5, 0.6, 0.7]} for group in CONSTANT.to_json()["groups"]], "none"):
        rewrite(tmp_path, [*lines[:3], changed(lines[3], groups=groups), lines[4]])
        choices = read_choices(tmp_path)
        assert choices.steps.tolist() == [1, 2]
        assert list(choices.damaged) == [4, 5]
    assert "its 'groups' is not list" in choices.damaged[4]


def test_scores_that_are_not_finite_are_no_damage(tmp_path):
    write(tmp_path, SWITCH, [(1, [1, 1], False)])
    header = (tmp_path / FILENAME).read_text().splitlines()[0]
    rewrite(tmp_path, [header, '\n{"step":1,"choice":"0","J":[NaN,1e999]}\n'])
    assert read_choices(tmp_path).damaged == {}


def test_only_the_first_are_told_in_full(tmp_path, caplog):
    lines = write_three_steps(tmp_path)
    rewrite(tmp_path, [*lines[:2], *["?\n"] * 5, lines[3]])
    assert list(read_choices(tmp_path).damaged) == [3, 4, 5, 6, 7]
    assert "line 5: not JSON; and 2 more" in caplog.text


# ---------------------------------------------------------------- headers
def two_runs(path) -> list[str]:
    """Three steps, and a run that resumed after the second with other choices, to step 4."""
    write_three_steps(path)
    write(path, HEADER._replace(start=2), [(3, [[0, 0], [0]], []), (4, [[0, 0], [0]], [])])
    return (path / FILENAME).read_text().splitlines(keepends=True)


BAD_HEADERS = {
    "not JSON": lambda line: line[:-9] + "\n",
    "format 99 is not known to this version of gap_hf": lambda line: changed(line, gap_hf=99),
    "it has no 'start'": lambda line: changed(line, start=None),
    "its 'start' is -1": lambda line: changed(line, start=-1),
    "its type is 'default'": lambda line: changed(line, type="default"),
    "its 'candidate' is not str": lambda line: changed(line, candidate=3),
    "it has no groups": lambda line: changed(line, groups=[]),
    "one of its groups is not a dict": lambda line: changed(line, groups=[[]]),
    "its parameters are not all text": lambda line: changed(
        line, groups=[{"candidates": ["0.8"], "parameters": [None]}]
    ),
    "one of its candidates is not a dict": lambda line: changed(
        line, groups=[{"candidates": ["0.8"], "parameters": ["a"]}]
    ),
    "one of its candidates is 'fast'; expected a number": lambda line: changed(
        line, gap_hf=1, groups=[{"candidates": ["0.8", "fast"], "parameters": ["a"]}]
    ),
    "one of its candidates is 'nan'": lambda line: changed(
        line, gap_hf=1, groups=[{"candidates": ["nan"], "parameters": ["a"]}]
    ),
    "its candidates are []": lambda line: changed(line, groups=[{"candidates": [], "parameters": ["a"]}]),
}


def changed(line: str, **given) -> str:
    """The header with other entries; without those that are None."""
    entries = {**json.loads(line), **given}
    return json.dumps({key: value for key, value in entries.items() if value is not None}) + "\n"


@pytest.mark.parametrize("why", BAD_HEADERS)
def test_damaged_header_costs_the_lines_up_to_the_next(tmp_path, why):
    lines = two_runs(tmp_path)
    damaged = BAD_HEADERS[why](lines[4])
    rewrite(tmp_path, [*lines[:4], damaged, *lines[5:]])
    choices = read_choices(tmp_path)
    assert choices.choices.tolist() == [[0, 1, 2], [1, 1, 0], [1, 0, 1]], "the first run's"
    assert list(choices.damaged) == [5, 6, 7]
    assert why in choices.damaged[5]
    assert choices.damaged[6] == choices.damaged[7] == "its header, line 5, can't be read"

    write(tmp_path, HEADER._replace(start=4), [(5, [[1, 1], [1]], [])])
    assert read_choices(tmp_path).steps.tolist() == [1, 2, 3, 5]


def test_header_that_is_gone_is_noticed_by_the_steps(tmp_path):
    """Of line 5 nothing is left that says what it was, but the steps go back after it."""
    lines = two_runs(tmp_path)
    rewrite(tmp_path, [*lines[:4], "\0" * 40 + "\n", *lines[5:]])
    choices = read_choices(tmp_path)
    assert choices.choices.tolist() == [[0, 1, 2], [1, 1, 0], [1, 0, 1]]
    assert "it goes back to step 3: the header before it is damaged" in choices.damaged[6]


def test_damaged_number_of_a_step_does_not_cost_the_next_ones(tmp_path):
    lines = write_three_steps(tmp_path)
    rewrite(tmp_path, [*lines[:2], '{"step":900,"choice":[]}\n', lines[3]])
    choices = read_choices(tmp_path)
    assert choices.steps.tolist() == [1, 3]
    assert list(choices.damaged) == [3]


def test_damage_that_a_resumed_run_has_done_over_is_no_loss(tmp_path, caplog):
    lines = write_three_steps(tmp_path)
    rewrite(tmp_path, [*lines[:2], "?\n", "?\n"])
    write(tmp_path, HEADER._replace(start=1), [(2, [[0, 0], [0]], [])])
    choices = read_choices(tmp_path)
    assert (choices.steps.tolist(), choices.damaged) == ([1, 2], {})
    write(tmp_path, HEADER._replace(start=2), [(3, [[0, 0], [0]], [])])
    assert (read_choices(tmp_path).damaged, caplog.text) == ({}, "")


def test_first_header_is_damaged(tmp_path):
    lines = write_three_steps(tmp_path)
    rewrite(tmp_path, [lines[0].replace("[", "", 1), *lines[1:]])
    says = r"holds no steps that can be read \(line 1: not JSON; line 2: its header, line 1, can't be read; .*1 more"
    with pytest.raises(ValueError, match=says):
        read_choices(tmp_path)
    write(tmp_path, HEADER._replace(start=3), [(4, [[1, 1], [1]], [])])
    assert read_choices(tmp_path).steps.tolist() == [4]


def test_format_of_the_future(tmp_path):
    lines = write_three_steps(tmp_path)
    rewrite(tmp_path, [lines[0].replace('"gap_hf":3', '"gap_hf":4'), *lines[1:]])
    with pytest.raises(ValueError, match="line 1: format 4 is not known to this version"):
        read_choices(tmp_path)


def test_every_step_is_damaged(tmp_path):
    rewrite(tmp_path, [write_three_steps(tmp_path)[0], "?\n", "?\n"])
    with pytest.raises(ValueError, match=r"holds no steps that can be read \(line 2: not JSON; line 3: not JSON\)"):
        read_choices(tmp_path)


# ---------------------------------------------------------------- something else
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"loss": 1}\n{"loss": 2}\n', r"\(line 1: no header; line 2: no header\)"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"\(line 1: not JSON; line 2: not JSON\)"),
        (b"\x7fELF\2\1\1\0\0\0", "$"),
        (b"hello", "$"),
        (b"[" * 100_000, "$"),
        (b"\0" * 5000, "$"),
    ],
)
def test_not_a_choices_file(tmp_path, content, says):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match=f"other is not a choices file ?{says}"):
        read_choices(tmp_path / "other")


def test_there_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing", tmp_path / "missing.jsonl"):
        with pytest.raises(FileNotFoundError, match=r"does not exist. A run with a gap optimizer"):
            read_choices(path)


# ---------------------------------------------------------------- whatever it is
def mixed_run(path) -> list[str]:
    """Two steps of a mix, and a run that resumed after the first with constant weights."""
    row = [np.array([[0.25, 0.75], [1, 0]]), np.array([[0.5, 0.25, 0.25]])]
    write_mix(path, WISE_MIX, [row] * 2)
    groups = [group._replace(weights=[1 / len(group.candidates)] * len(group.candidates)) for group in WISE_MIX.groups]
    write(path, WISE_MIX._replace(start=1, groups=groups), [(2, [[0, 0], [0]], []), (3, [[0, 0], [0]], [])])
    return (path / FILENAME).read_text().splitlines(keepends=True)


@pytest.mark.parametrize("runs", [two_runs, mixed_run])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_raises_nothing_else(tmp_path_factory, runs, data):
    """Bytes changed, cut out or put in anywhere: what is left reads back, or a ValueError says why not."""
    path = tmp_path_factory.mktemp("run")
    content = bytearray("".join(runs(path)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        size = data.draw(st.integers(0, 3))
        content[at : at + size] = data.draw(st.binary(max_size=3))
    (path / FILENAME).write_bytes(content)
    try:
        choices = read_choices(path)
    except ValueError:
        return
    assert choices.choices.shape == (len(choices.steps), len(choices.parameters)) == choices.margins.shape
    assert (choices.steps[1:] > choices.steps[:-1]).all()
    if choices.weights is not None:
        assert choices.weights.shape == (*choices.choices.shape, max(map(len, choices.candidates)))
        assert choices.weights.sum(axis=2) == pytest.approx(np.ones(choices.choices.shape), abs=0.1)


def test_each_changed_byte_costs_at_most_its_line(tmp_path):
    lines = write_three_steps(tmp_path)
    content = "".join(lines).encode()
    line_of = [number for number, line in enumerate(lines) for _ in line]
    for at in range(len(lines[0]), len(content)):
        (tmp_path / FILENAME).write_bytes(content[:at] + b"\0" + content[at + 1 :])
        # a line break takes two lines with it
        lost = {line_of[at], line_of[at] + (content[at : at + 1] == b"\n")}
        assert {*read_choices(tmp_path).steps.tolist(), *lost} >= {1, 2, 3}
