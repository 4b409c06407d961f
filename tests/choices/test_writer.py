"""Runs that share an output_dir: each has a file of its own, and nothing that was written is lost."""

import logging
import os
import signal
import stat
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

import gap_hf
from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME, Header, HeaderGroup
from gap_hf.choices.writer import ChoiceWriter

from .files import HEADER, adams, write, write_three_steps
from .test_recorder import build, train

ROW = [[1, 1], [1]]


def steps_of(path: Path) -> list[int]:
    return read_choices(path).steps.tolist()


@pytest.mark.parametrize("runs", [2, 5])
def test_each_new_run_keeps_the_earlier_ones(tmp_path, caplog, runs):
    for run in range(runs):
        write(tmp_path, HEADER, [(step, ROW, []) for step in range(1, run + 2)])
    assert len(steps_of(tmp_path)) == runs, "the last one's"
    for run in range(runs - 1):
        assert len(steps_of(tmp_path / f"gap_choices.{run + 1}.jsonl")) == run + 1
    assert len(list(tmp_path.iterdir())) == runs
    assert caplog.text == "", "nothing is wrong"


def test_number_that_is_taken_is_not_used(tmp_path):
    (tmp_path / "gap_choices.1.jsonl").write_text("of somebody else")
    (tmp_path / "gap_choices.2.jsonl").symlink_to("missing")
    write_three_steps(tmp_path)
    write(tmp_path, HEADER, [(1, ROW, [])])
    assert (tmp_path / "gap_choices.1.jsonl").read_text() == "of somebody else"
    assert steps_of(tmp_path / "gap_choices.3.jsonl") == [1, 2, 3]


@pytest.mark.parametrize("cut", [0, 1, 20, 50])
def test_resumed_run_only_appends(tmp_path, cut):
    write_three_steps(tmp_path)
    path = tmp_path / FILENAME
    before = path.read_bytes()[: path.stat().st_size - cut]
    path.write_bytes(before)
    inode = path.stat().st_ino
    write(tmp_path, HEADER._replace(start=1), [(2, ROW, [])])
    assert path.read_bytes().startswith(before)
    assert path.stat().st_ino == inode
    assert steps_of(tmp_path) == [1, 2]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("target", ["a file", "nothing"])
def test_link_is_not_followed(tmp_path, start, target):
    precious = tmp_path / "precious.jsonl"
    run = tmp_path / "run"
    run.mkdir()
    if target == "a file":
        precious.write_text("of another run\n")
    (run / FILENAME).symlink_to(precious)
    write(run, HEADER._replace(start=start), [(start + 1, ROW, [])])
    assert steps_of(run) == [start + 1]
    assert not (run / FILENAME).is_symlink()
    assert (run / "gap_choices.1.jsonl").readlink() == precious
    assert precious.exists() == (target == "a file")
    if target == "a file":
        assert precious.read_text() == "of another run\n"


def test_more_candidates_than_digits_are_refused_at_once(tmp_path):
    header = Header(0, "switch_parameter_wise", "beta1", [HeaderGroup(adams(*["0.5"] * 37), ["p"])])
    with pytest.raises(ValueError, match="up to 36 candidates"):
        ChoiceWriter(tmp_path / FILENAME, header)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- in one process
@pytest.mark.parametrize("start", [0, 2])
def test_of_two_recorders_the_later_one_records(tmp_path, caplog, start):
    """The earlier one is of a loop that broke off, in a notebook; if it does go on, it says that it no longer can."""
    model, optimizer = build()
    first = gap_hf.Recorder(optimizer, model, tmp_path)
    for step, _ in enumerate(train(model, optimizer, 4), 1):
        first.add(step)
    second = gap_hf.Recorder(optimizer, model, tmp_path, start=start)
    for step, _ in enumerate(train(model, optimizer, 3), start + 1):
        second.add(step)
        assert (caplog.text == "") == (step == start + 1)
        first.add(step)
    first.close()
    second.close()
    assert len(caplog.records) == 1
    assert "another recorder in this process writes there now" in caplog.text
    assert steps_of(tmp_path) == list(range(1, start + 4))
    assert {path.name for path in tmp_path.iterdir()} == {FILENAME, *([] if start else ["gap_choices.1.jsonl"])}


def test_recorder_that_is_closed_says_so(tmp_path):
    model, optimizer = build()
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, _ in enumerate(train(model, optimizer, 2), 1):
            recorder.add(step)
    recorder.add(2)  # no step since
    for _ in train(model, optimizer, 1):
        pass
    with pytest.raises(ValueError, match="this recorder is closed; to go on, build another with start="):
        recorder.add(3)
    assert steps_of(tmp_path) == [1, 2]


# ---------------------------------------------------------------- in several
@contextmanager
def process(work: Callable[[], object]):
    """Another process that does ``work``; yields its id when that is done, and kills it in the end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            kept = work()
            os.write(writer, b"done")
            signal.pause()
            status = int(kept is None)
        finally:
            os._exit(status)
    os.close(writer)
    try:
        assert os.read(reader, 4) == b"done"
        yield pid
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def begin(path: Path, step: int = 1) -> ChoiceWriter:
    """A run that has taken its first step."""
    writer = ChoiceWriter(path / FILENAME, HEADER)
    writer.write(step, ROW, [], None)
    return writer


@pytest.mark.parametrize("start", [0, 1])
def test_file_that_another_process_writes_is_left_to_it(tmp_path, caplog, start):
    with process(lambda: begin(tmp_path)):
        inode = (tmp_path / FILENAME).stat().st_ino
        write(tmp_path, HEADER._replace(start=start), [(start + 1, [[0, 0], [0]], [])])
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"another process is writing {tmp_path / FILENAME}: two runs share this output_dir" in caplog.text
        assert (tmp_path / "gap_choices.1.jsonl").stat().st_ino == inode, "where the other goes on"
    assert read_choices(tmp_path).choices.tolist() == [[0, 0, 0]]
    assert read_choices(tmp_path / "gap_choices.1.jsonl").choices.tolist() == [[1, 1, 1]]


def test_killed_run_leaves_no_lock(tmp_path, caplog):
    with process(lambda: begin(tmp_path)):
        pass
    write(tmp_path, HEADER._replace(start=1), [(2, ROW, [])])
    assert steps_of(tmp_path) == [1, 2]
    assert caplog.text == ""
    assert len(list(tmp_path.iterdir())) == 1


def test_worker_that_outlives_its_trainer_holds_no_lock(tmp_path, caplog):
    """DataLoader's workers are forks, and notice only after seconds that they are alone."""

    def trainer_with_a_worker() -> ChoiceWriter:
        writer = begin(tmp_path)
        pid = os.fork()
        if not pid:
            signal.pause()
        (tmp_path / "worker").write_text(str(pid))
        return writer

    with process(trainer_with_a_worker):
        worker = int((tmp_path / "worker").read_text())
    try:
        assert Path(f"/proc/{worker}").exists()
        write(tmp_path, HEADER._replace(start=1), [(2, ROW, [])])
    finally:
        os.kill(worker, signal.SIGKILL)
    assert steps_of(tmp_path) == [1, 2]
    assert caplog.text == ""


def test_many_that_begin_at_once(tmp_path):
    """As under a launcher that does not tell the processes of each other: each is sure to be the first."""
    write_three_steps(tmp_path)
    gate, opener = os.pipe()
    children = []
    for number in range(8):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(opener)
                os.read(gate, 1)  # ends when the parent closes the other end
                writer = ChoiceWriter(tmp_path / FILENAME, HEADER)
                for step in range(1, 51):
                    writer.write(100 * number + step, ROW, [], None)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    os.close(gate)
    os.close(opener)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
    found = sorted(steps_of(path) for path in tmp_path.iterdir())
    assert found == sorted([[1, 2, 3], *([100 * n + step for step in range(1, 51)] for n in range(8))])


def test_file_is_readable_for_others(tmp_path):
    """As open() makes it, by the umask."""
    before = os.umask(0o027)
    try:
        write_three_steps(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FILENAME).stat().st_mode) == 0o640
