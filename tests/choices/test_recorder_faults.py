"""A file that can't be written is given up with one warning: training goes on, and what was written reads back."""

import contextlib
import gc
import os
import resource
import shutil
import warnings
from pathlib import Path

import pytest
from transformers import TrainerCallback

import gap_hf
from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME

from ..tiny import tiny_trainer
from ..trainer.test_callback import gap_logs
from .test_recorder import build, train


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("gap_hf")]


@contextlib.contextmanager
def largest_file(size: int):
    """No file of this process can grow beyond ``size`` bytes, as under ``ulimit -f`` or a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("more", [0, 1, 20])
def test_file_that_cannot_grow(tmp_path, caplog, more):
    model, optimizer = build()
    path = tmp_path / FILENAME
    recorder = gap_hf.Recorder(optimizer, model, tmp_path)
    for step, _ in enumerate(train(model, optimizer, 8), 1):
        with largest_file(path.stat().st_size + more) if step > 3 else contextlib.nullcontext():
            recorder.add(step)
    assert recorder.summary()["gap/beta1"] > 0, "it counts on"
    recorder.close()
    (said,) = warnings_of(caplog)
    assert f"step 4: the choices can't be written to {path} (File too large). Training goes on" in said
    assert read_choices(tmp_path).steps.tolist() == [1, 2, 3]

    # the next run goes on in it, after the line that was cut off
    with gap_hf.Recorder(optimizer, model, tmp_path, start=3) as recorder:
        for step, _ in enumerate(train(model, optimizer, 2), 4):
            recorder.add(step)
    assert read_choices(tmp_path).steps.tolist() == [1, 2, 3, 4, 5]
    assert len(caplog.records) == 1


def test_not_even_the_header_fits(tmp_path, caplog):
    model, optimizer = build()
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, _ in enumerate(train(model, optimizer, 3), 1):
            with largest_file(10):
                recorder.add(step)
    assert len(warnings_of(caplog)) == 1
    with pytest.raises(ValueError, match="holds no steps yet"):
        read_choices(tmp_path)


def below_a_file(path: Path) -> Path:
    (path / "file").write_text("a report")
    return path / "file" / "run"


def a_file(path: Path) -> Path:
    (path / "file").write_text("a report")
    return path / "file"


def a_directory_in_its_place(path: Path) -> Path:
    (path / FILENAME).mkdir()
    return path


def a_link_to_nowhere(path: Path) -> Path:
    (path / "run").symlink_to(path / "missing" / "run")
    return path / "run"


def read_only(path: Path) -> Path:
    return Path("/proc/gap_hf")  # even for root


@pytest.mark.parametrize("place", [below_a_file, a_file, a_directory_in_its_place, a_link_to_nowhere, read_only])
@pytest.mark.parametrize("start", [0, 5])
def test_directory_that_cannot_be_written(tmp_path, caplog, place, start):
    model, optimizer = build()
    output_dir = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with gap_hf.Recorder(optimizer, model, output_dir, start=start) as recorder:
        for step, _ in enumerate(train(model, optimizer, 3), start + 1):
            recorder.add(step)
        assert recorder.summary()["gap/changed"] >= 0
    (said,) = warnings_of(caplog)
    assert f"step {start + 1}: the choices can't be written to {output_dir / FILENAME} (" in said
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------- in Trainer
class During(TrainerCallback):
    """Does something after a step, before the next one."""

    def __init__(self, step: int, do) -> None:
        self.step, self.do = step, do

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.do()


def test_trainer_without_room(tmp_path, caplog):
    """The limit is there while a step is taken and recorded; Trainer's own files are written without it."""
    limit = contextlib.ExitStack()

    class Tight(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step >= 5:
                limit.enter_context(largest_file((tmp_path / FILENAME).stat().st_size + 7))

        def on_step_end(self, args, state, control, **kwargs):
            limit.close()

    trainer = tiny_trainer(tmp_path, callbacks=[Tight()], save_strategy="steps", save_steps=8)
    trainer.train()
    assert trainer.state.global_step == 8
    assert len(warnings_of(caplog)) == 1
    assert list(gap_logs(trainer)) == [4, 8]
    assert read_choices(tmp_path).steps.tolist() == [1, 2, 3, 4, 5]

    # resumed with room
    again = tiny_trainer(tmp_path, max_steps=10)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert read_choices(tmp_path).steps.tolist() == [1, 2, 3, 4, 5, 9, 10]
    assert read_choices(tmp_path).damaged == {7: "not JSON"}, "what fitted of step 6"


def test_trainer_with_more_candidates_than_the_file_holds(tmp_path, caplog):
    momenta = ":".join(str(k / 40) for k in range(37))
    trainer = tiny_trainer(tmp_path, optim="gap_sgdm", optim_args=f"momentum={momenta}")
    trainer.train()
    assert trainer.state.global_step == 8
    (said,) = warnings_of(caplog)
    assert "the choices are not recorded. Training goes on" in said
    assert list(gap_logs(trainer)) == [4, 8]
    assert not (tmp_path / FILENAME).exists()


def test_directory_is_removed_meanwhile(tmp_path, caplog):
    output_dir = tmp_path / "run"
    trainer = tiny_trainer(output_dir, callbacks=[During(3, lambda: shutil.rmtree(output_dir))], max_steps=12)
    trainer.train()
    assert trainer.state.global_step == 12
    assert list(gap_logs(trainer)) == [4, 8, 12]
    (said,) = warnings_of(caplog)
    assert f"at a log: the choices can't be written to {output_dir / FILENAME} (it was deleted)" in said


def test_directory_is_moved_meanwhile(tmp_path, caplog):
    output_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    tiny_trainer(output_dir, callbacks=[During(3, lambda: output_dir.rename(elsewhere))]).train()
    assert read_choices(elsewhere).steps.tolist() == list(range(1, 9))
    assert warnings_of(caplog) == []


class OutOfMemory(TrainerCallback):
    """The device's memory is too small for batches of more than two."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3 and state.train_batch_size > 2:
            raise RuntimeError("CUDA out of memory.")


def test_restart_with_smaller_batches(tmp_path):
    """Trainer begins anew after a step that ran out of memory, and tells no callback that the attempt is over."""
    trainer = tiny_trainer(
        tmp_path, callbacks=[OutOfMemory()], per_device_train_batch_size=4, auto_find_batch_size=True, max_steps=5
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
        gc.collect()
    assert not [str(w.message) for w in caught if w.category is ResourceWarning and FILENAME in str(w.message)]
    assert read_choices(tmp_path).steps.tolist() == [1, 2, 3, 4, 5]
    assert read_choices(tmp_path / "gap_choices.1.jsonl").steps.tolist() == [1, 2, 3], "the first attempt's"
    assert not [path for path in Path("/proc/self/fd").iterdir() if FILENAME in os.path.realpath(path)]


def test_training_that_broke_off_does_not_keep_the_next_trainer_from_recording(tmp_path):
    """The optimizer remembers the callback that watches it: here that of a Trainer whose training failed."""

    def fail():
        raise KeyboardInterrupt

    first = tiny_trainer(tmp_path / "first", callbacks=[During(3, fail)])
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert read_choices(tmp_path / "first").steps.tolist() == [1, 2, 3]
    second = tiny_trainer(tmp_path / "second")
    second.model, second.optimizer = first.model, first.optimizer
    second.train()
    assert list(gap_logs(second)) == [4, 8]
    assert read_choices(tmp_path / "second").steps.tolist() == list(range(1, 9))
