"""The batch size that optimizers are told, by Trainer and from Accelerate, is that of each step."""

import json

import pytest
import torch
from accelerate import Accelerator

import gap_hf
from gap_hf.trainer.batch import items_of

from ..scripts.batch_sizes import ROWS, everything
from ..tiny import LAUNCH, run, tiny_model, tiny_trainer


def test_alone(tmp_path):
    """Thirteen batches of two rows, three to a step; the last step of an epoch has one."""
    items = 11 if hasattr(tiny_trainer(tmp_path), "_loss_shifts_labels") else 12  # that are predicted, in a row
    steps = [6 * items] * 4 + [2 * items]
    found = everything(tmp_path)
    for way in ("averaged", "apart", "uncounted"):
        assert found[way] == steps * 2, way
    assert found["accelerate_1"] == [2] * 13 * 2
    assert found["accelerate_3"] == ([6] * 4 + [2]) * 2


def test_two_processes(tmp_path):
    """Seven batches for each; the last one is filled up."""
    done = run([*LAUNCH, "-m", "tests.scripts.batch_sizes", tmp_path])
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    items = 11 if hasattr(tiny_trainer(tmp_path), "_loss_shifts_labels") else 12
    for way in ("averaged", "apart", "uncounted"):
        assert one[way] == [12 * items, 12 * items, 4 * items] * 2, way
    assert one["accelerate_1"] == [4] * 7 * 2
    assert one["accelerate_3"] == [12, 12, 4] * 2


def test_a_smaller_last_batch():
    """As Accelerate gives it to a single process."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    rows = torch.utils.data.DataLoader(torch.arange(float(ROWS + 1)), batch_size=4)
    p = torch.nn.Parameter(torch.zeros(()))
    optimizer = gap_hf.RFAdamW([p], batch_size="accelerate")
    with pytest.raises(ValueError, match="no data loader that accelerator.prepare returned is being iterated"):
        backward(p), optimizer.step()
    prepared = accelerator.prepare(rows)
    sizes = []
    for batch in prepared:
        with accelerator.accumulate(torch.nn.Identity()):
            backward(p * batch.mean())
        if accelerator.sync_gradients:
            optimizer.step()
            sizes.append(optimizer.param_groups[0]["last_batch_size"])
    assert sizes == [8, 8, 8, 3]


def backward(loss):
    (loss * 1.0).sum().backward()


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from torch.arange(8.0)


def test_a_stream_says_no_batch_size():
    accelerator = Accelerator(cpu=True)
    rows = accelerator.prepare(torch.utils.data.DataLoader(Endless(), batch_size=4))
    p = torch.nn.Parameter(torch.zeros(()))
    optimizer = gap_hf.RFAdamW([p], batch_size="accelerate")
    for batch in rows:
        backward(p * batch.mean())
        with pytest.raises(ValueError, match="with a length says so. Give the number itself"):
            optimizer.step()


def test_the_items_of_a_batch():
    labels = torch.tensor([[1, 2, -100], [3, 4, 5]])
    assert items_of({"input_ids": labels, "labels": labels}, shifted=False) == 5
    assert items_of({"input_ids": labels, "labels": labels}, shifted=True) == 3
    assert items_of({"pixel_values": torch.zeros(4, 3)}, shifted=False) == 4
    with pytest.raises(ValueError, match="optim_args="):
        items_of({"text": "words"}, shifted=False)


def test_a_trainer_that_fetches_its_batches_otherwise_is_refused(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path, optim="rf_adamw", max_grad_norm=0.0)
    plain = type(trainer).get_batch_samples

    def own(*args, **kwargs):
        batches, items = plain(trainer, *args, **kwargs)
        trainer.optimizer.optimizer._told = 0.0
        return batches, items

    monkeypatch.setattr(trainer, "get_batch_samples", own)
    with pytest.raises(ValueError, match="if its get_batch_samples is not overridden"):
        trainer.train()


def test_a_batch_size_of_ones_own(tmp_path):
    trainer = tiny_trainer(tmp_path, optim="rf_adamw", optim_args="batch_size=5", max_grad_norm=0.0)
    trainer.train()
    assert trainer.optimizer.optimizer.param_groups[0]["last_batch_size"] == 5


def test_clipping_is_advised_against(tmp_path, caplog):
    tiny_trainer(tmp_path, optim="rf_rmsprop").create_optimizer()
    assert "Set max_grad_norm=0" in caplog.text
    caplog.clear()
    tiny_trainer(tmp_path, optim="rf_rmsprop", max_grad_norm=0.0).create_optimizer()
    assert caplog.text == ""


@pytest.mark.parametrize("cls", [gap_hf.RFAdamW, gap_hf.RFRMSprop])
def test_loss_scaling_changes_nothing(cls):
    """As fp16 training scales the loss."""
    models = [tiny_model(), tiny_model()]
    ids = torch.arange(24).reshape(2, 12)
    optimizers = [cls(model.parameters(), lr=1e-3, batch_size=22) for model in models]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        for model, optimizer, scaled in zip(models, optimizers, (False, True), strict=True):
            loss = model(input_ids=ids, labels=ids).loss
            (scaler.scale(loss) if scaled else loss).backward()
            if scaled:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            optimizer.zero_grad()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p, q)
