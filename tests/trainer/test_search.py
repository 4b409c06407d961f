"""Hyperparameter search: each trial has a choices file of its own, beside its checkpoints."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers.integrations
from transformers import Trainer
from transformers.trainer_utils import HPSearchBackend

from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME
from gap_hf.report.run import read_runs

from ..tiny import arguments, tiny_data, tiny_model


def searching_trainer(output_dir: Path, **given) -> Trainer:
    args = arguments(output_dir, max_steps=4, logging_steps=2, save_strategy="steps", save_steps=4, **given)
    data = tiny_data(rows=16)
    return Trainer(model_init=lambda: tiny_model(), args=args, train_dataset=data, eval_dataset=data[:2])


def check(output_dir: Path, names: list[str]) -> None:
    """Every trial's directory is a run of four steps, with the losses of the checkpoint; nothing lies beside them."""
    assert sorted(path.parent.name for path in output_dir.rglob(FILENAME)) == names
    for run in read_runs([output_dir / name for name in names]):
        assert run.choices.steps.tolist() == [1, 2, 3, 4]
        assert run.curve("loss")[0] == [2, 4]


@pytest.mark.parametrize("hp_name", [None, lambda trial: f"lr{trial.params['learning_rate']:g}"])
def test_trials(tmp_path, monkeypatch, caplog, hp_name):
    """Trainer as a backend drives it: only the trials are not a backend's."""
    monkeypatch.setattr(transformers.integrations, "hp_params", lambda trial: trial.params)
    trainer = searching_trainer(tmp_path)
    trainer.hp_search_backend, trainer.hp_name = HPSearchBackend.OPTUNA, hp_name
    trainer.hp_space = lambda trial: trial.params
    for number, rate in ((0, 0.01), (1, 0.02), (7, 0.04)):
        trainer.train(trial=SimpleNamespace(number=number, params={"learning_rate": rate}))
    check(tmp_path, ["run-0", "run-1", "run-7"] if hp_name is None else ["lr0.01", "lr0.02", "lr0.04"])

    # the best one is trained on, as an ordinary run
    trainer.hp_search_backend = None
    best = next(tmp_path.glob("*/checkpoint-4"))
    trainer.args.max_steps = 6
    trainer.train(resume_from_checkpoint=str(best))
    assert read_choices(tmp_path).steps.tolist() == [5, 6]
    assert not [record for record in caplog.records if record.name.startswith("gap_hf.trainer")]


def test_search(tmp_path):
    optuna = pytest.importorskip("optuna", reason="a search needs a backend, like optuna")
    optuna.logging.set_verbosity(logging.ERROR)
    trainer = searching_trainer(tmp_path, eval_strategy="steps", eval_steps=2)
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)},
        n_trials=3,
        backend="optuna",
        direction="minimize",
    )
    check(tmp_path, ["run-0", "run-1", "run-2"])
