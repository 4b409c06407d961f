"""What ``GapCallback`` logs of a mix, and of the gradients."""

from itertools import chain, pairwise

import pytest
import torch
from transformers import TrainerCallback

from ..tiny import tiny_trainer
from .test_callback import gap_logs, lines_of, spring_trainer


class Gradients(TrainerCallback):
    """Keeps the gradients of every step, as the optimizer gets them."""

    def __init__(self) -> None:
        self.seen: list[list[torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen.append([p.grad.flatten().double() for p in model.parameters()])


def test_correlation_is_that_of_successive_gradients(tmp_path):
    """The mean cosine over the model's two parameters and the steps of each window; the first step has none before."""
    trainer, gradients = spring_trainer(tmp_path, max_grad_norm=0.5), Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    cosines = [
        [torch.cosine_similarity(*pair, dim=0).item() for pair in zip(before, now, strict=True)]
        for before, now in pairwise(gradients.seen)
    ]
    for step, values in gap_logs(trainer).items():
        window = list(chain(*cosines[max(step - 6, 0) : step - 1]))
        assert values["gap/correlation"] == pytest.approx(sum(window) / len(window), abs=1e-5)
        assert len(window) == (8 if step == 5 else 10)
        assert "gap/group0/correlation" not in values


@pytest.mark.parametrize("weights", ["0.3:0.7", "score"])
@pytest.mark.parametrize("type", ["mix", "mix_parameter_wise"])
def test_weights_of_a_mix(tmp_path, type, weights):
    """Against the lines of the file, or its header where they are constant."""
    trainer = tiny_trainer(tmp_path, optim_args=f"type={type},betas=0.5:0.9,weights={weights}", logging_steps=4)
    trainer.train()
    header, steps = lines_of(tmp_path)
    for step, values in gap_logs(trainer).items():
        assert list(values) == [
            "gap/beta1", "gap/weight_0.5", "gap/weight_0.9", "gap/dominance", "gap/changed", "gap/resets",
            "gap/correlation",
        ]  # fmt: skip
        window = [line for line in steps if step - 4 < line["step"] <= step]
        assert len(window) == 4
        if weights != "score":
            assert not any("weights" in line for line in window)
            first, off = [group["weights"][0] for group in header["groups"]], 1e-6
        elif type == "mix":
            first, off = [line["weights"][0] for line in window], 1e-4
        else:
            texts = [group[0] for line in window for group in line["weights"]]
            first, off = [int(digit, 36) / 35 for text in texts for digit in text], 0.5 / 35
        assert values["gap/weight_0.5"] == pytest.approx(sum(first) / len(first), abs=off)
        assert values["gap/weight_0.5"] + values["gap/weight_0.9"] == pytest.approx(1, abs=2e-6)
        mean = 0.5 * values["gap/weight_0.5"] + 0.9 * values["gap/weight_0.9"]
        assert values["gap/beta1"] == pytest.approx(mean, abs=2e-6)
        assert values["gap/dominance"] == max(values["gap/weight_0.5"], values["gap/weight_0.9"])
