"""The model card that Trainer writes names the optimizer that trained, and its options."""

from pathlib import Path

import pytest
from transformers import Trainer, modelcard

import gap_hf

from ..tiny import arguments, tiny_data, tiny_model, tiny_trainer

GAP_ADAMW = "betas=[(0.8, 0.999), (0.99, 0.999)], type=switch_parameter_wise"


def optimizer_line(trainer: Trainer) -> str:
    """What the card says of the optimizer."""
    trainer.create_model_card()
    lines = (Path(trainer.args.output_dir) / "README.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("- optimizer: ")]
    return line.removeprefix("- optimizer: ")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, f"Use gap_adamw (GapAdamW of gap_hf {gap_hf.__version__}) with {GAP_ADAMW}"),
        (
            {"optim": "gap_adamw_small_batch", "optim_args": "soft_reset=0.5", "adam_beta2": 0.9, "adam_epsilon": 1e-6},
            f"Use gap_adamw_small_batch (GapAdamW of gap_hf {gap_hf.__version__}) with "
            "betas=[(0.5, 0.9), (0.9, 0.9), (0.99, 0.9)], type=switch, eps=1e-06, soft_reset=0.5, J_ema=0.9",
        ),
        (
            {"optim": "gap_sgdm", "optim_args": "nesterov=true"},
            f"Use gap_sgdm (SGDM of gap_hf {gap_hf.__version__}) with "
            "momentum=[0.5, 0.9, 0.99], type=switch, nesterov=True",
        ),
        (
            {"optim_args": "type=default", "adam_beta1": 0.7},
            f"Use gap_adamw (GapAdamW of gap_hf {gap_hf.__version__}) with betas=[(0.7, 0.999)], type=default",
        ),
    ],
    ids=["gap_adamw", "gap_adamw_small_batch", "gap_sgdm", "default"],
)
def test_card(tmp_path, given, says):
    assert optimizer_line(tiny_trainer(tmp_path, **given)) == says


def test_the_same_after_the_training(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=1, optim="gap_adamw_small_batch", optim_args="soft_reset=0.5")
    before = optimizer_line(trainer)
    trainer.train()
    assert optimizer_line(trainer) == before


def test_optimizer_without_a_name(tmp_path):
    options = {"lr": 0.02, "betas": [(0.5, 0.9), (0.9, 0.99)], "type": "switch"}
    args = arguments(tmp_path, optim="adamw_torch", max_steps=1)
    trainer = Trainer(
        tiny_model(), args, train_dataset=tiny_data(), optimizer_cls_and_kwargs=(gap_hf.GapAdamW, options)
    )
    trainer.train()
    assert optimizer_line(trainer) == (
        f"Use GapAdamW of gap_hf {gap_hf.__version__} with betas=[(0.5, 0.9), (0.9, 0.99)], type=switch"
    )


def test_other_optimizers_are_described_as_before(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=1, optim="adamw_torch", adam_beta1=0.7)
    assert "with betas=(0.7,0.999) and epsilon=1e-08" in optimizer_line(trainer)


def test_registering_again_changes_nothing():
    before = modelcard.extract_hyperparameters_from_trainer
    gap_hf.register()
    assert modelcard.extract_hyperparameters_from_trainer is before
