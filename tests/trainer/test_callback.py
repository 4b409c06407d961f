"""``GapCallback``: what lands in the logs, against a count by hand from the choices file."""

import gc
import json
import weakref
from itertools import chain
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from transformers import Trainer, TrainerControl, TrainerState

import gap_hf
from gap_hf.choices.format import FILENAME
from gap_hf.trainer.callback import DefaultGapCallback

from ..tiny import arguments, tiny_data, tiny_model, tiny_trainer

WISE = {
    "optim_args": "betas=0.5:0.6:0.9,hysteresis_threshold=1",
    "learning_rate": 0.3,
    "lr_scheduler_type": "constant",
}
"""Rough enough for changes and resets."""


class Spring(nn.Module):
    """Swings back and forth under momentum, so that choices change and buffers are reset."""

    def __init__(self) -> None:
        super().__init__()
        self.spring = nn.Linear(2, 1)
        self.spring.weight.data = torch.tensor([[1.0, -2.0]])
        self.spring.bias.data = torch.tensor([3.0])

    def forward(self, stiffness: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"loss": stiffness.mean() * sum(p.square().sum() for p in self.parameters()) / 2}


def spring_trainer(output_dir: Path, **given) -> Trainer:
    args = arguments(
        output_dir,
        optim="gap_sgdm",
        optim_args="momentum=0.9:0.99,hysteresis_threshold=1",
        learning_rate=0.5,
        **{"max_steps": 20, "logging_steps": 5, **given},
    )
    data = [{"stiffness": 1.0}] * 100
    return Trainer(model=Spring(), args=args, train_dataset=data, callbacks=[gap_hf.GapCallback(per_group=True)])


def lines_of(run_dir: Path) -> tuple[dict, list[dict]]:
    """The header and the steps of a choices file, read without the package's reader."""
    header, *steps = map(json.loads, (run_dir / FILENAME).read_text().splitlines())
    return header, steps


def gap_logs(trainer: Trainer) -> dict[int, dict[str, float]]:
    """Step to what the callback logged there."""
    logs = [(log["step"], {k: v for k, v in log.items() if k.startswith("gap/")}) for log in trainer.state.log_history]
    logs = [(step, log) for step, log in logs if log]
    assert len(dict(logs)) == len(logs), "once per step"
    return dict(logs)


def counted(values: dict[str, float]) -> dict[str, float]:
    """What was logged of the choices: all but the correlation of gradients, which the file says nothing of."""
    return {key: value for key, value in values.items() if key != "gap/correlation"}


def count_by_hand(run_dir: Path, first: int, last: int, per_group: bool = False) -> dict[str, float]:
    """What the log of steps ``first`` to ``last`` must hold of the choices."""
    header, steps = lines_of(run_dir)
    groups, switch = header["groups"], header["type"] == "switch"
    names = header["candidate"]
    # every step's list of (group, candidate text), parameter by parameter
    table = {}
    for line in steps:
        texts = [line["choice"] * len(g["parameters"]) for g in groups] if switch else line["choice"]
        table[line["step"]] = [
            (g, groups[g]["candidates"][int(digit, 36)]["label"]) for g, text in enumerate(texts) for digit in text
        ]
    window = range(first, last + 1)
    result = {}
    each = [(f"gap/group{g}/", [g]) for g in range(len(groups))] if per_group else []
    for prefix, wanted in [("gap/", range(len(groups))), *each]:
        chosen = [label for step in window for g, label in table[step] if g in wanted]
        changes = [
            now != before
            for step in window
            for now, before in zip(table[step], table.get(step - 1, table[step]), strict=True)
            if now[0] in wanted
        ]
        if switch:
            resets = sum(line.get("reset") is True for line in steps if line["step"] in window)
        else:
            resets = sum(g in wanted for line in steps if line["step"] in window for g, _ in line.get("reset", []))
        result[prefix + names] = sum(map(float, chosen)) / len(chosen)
        result[prefix + "changed"] = sum(changes) / len(changes)
        result[prefix + "resets"] = resets
        for label in [candidate["label"] for candidate in groups[0]["candidates"]]:
            result[f"{prefix}share_{label}"] = chosen.count(label) / len(chosen)
        result[prefix + "dominance"] = max(value for key, value in result.items() if key.startswith(prefix + "share_"))
    return result


@pytest.fixture(scope="module")
def wise(tmp_path_factory) -> Trainer:
    """A finished run of 'switch_parameter_wise' over two groups, tracked by TensorBoard, with evaluation."""
    run_dir = tmp_path_factory.mktemp("wise")
    trainer = Trainer(
        model=tiny_model(),
        args=arguments(
            run_dir,
            max_steps=20,
            logging_steps=5,
            report_to="tensorboard",
            eval_strategy="steps",
            eval_steps=3,
            **WISE,
        ),
        train_dataset=tiny_data(),
        eval_dataset=tiny_data(rows=8),
        callbacks=[gap_hf.GapCallback(per_group=True)],
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def switch(tmp_path_factory) -> Trainer:
    """A finished run of 'switch' over two groups."""
    trainer = spring_trainer(tmp_path_factory.mktemp("switch"))
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", ["wise", "switch"])
def test_logs_equal_a_count_by_hand(request, kind):
    trainer = request.getfixturevalue(kind)
    run_dir = Path(trainer.args.output_dir)
    logged = gap_logs(trainer)
    assert list(logged) == [5, 10, 15, 20]
    for step, values in logged.items():
        assert counted(values) == pytest.approx(count_by_hand(run_dir, step - 4, step, per_group=True), abs=1e-6)
    # the run shows something
    assert sum(values["gap/changed"] for values in logged.values()) > 0
    assert sum(values["gap/resets"] for values in logged.values()) > 1
    assert len({values[k] for values in logged.values() for k in values if k in ("gap/beta1", "gap/momentum")}) > 1


@pytest.mark.parametrize("kind", ["wise", "switch"])
def test_shares_sum_to_one(request, kind):
    for values in gap_logs(request.getfixturevalue(kind)).values():
        for prefix in ("gap/", "gap/group0/", "gap/group1/"):
            shares = [v for k, v in values.items() if k.startswith(prefix + "share_")]
            assert sum(shares) == pytest.approx(1, abs=1e-5)
            assert len(shares) > 1


def test_switch_says_the_same_of_both_groups(switch):
    for values in gap_logs(switch).values():
        for key in ("momentum", "changed", "resets", "share_0.9", "share_0.99", "dominance"):
            assert values[f"gap/{key}"] == values[f"gap/group0/{key}"] == values[f"gap/group1/{key}"]


def test_tracker_gets_the_same_values(wise):
    (directory,) = {path.parent for path in Path(wise.args.output_dir).rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(directory))
    events.Reload()
    seen = {tag for tag in events.Tags()["scalars"] if "gap/" in tag}
    logged = gap_logs(wise)
    assert seen == {f"train/{key}" for key in logged[5]}
    for key in logged[5]:
        tracked = {event.step: event.value for event in events.Scalars(f"train/{key}")}
        assert tracked == pytest.approx({step: values[key] for step, values in logged.items()}, rel=1e-6)


def test_only_training_logs_get_them(wise):
    others = [log for log in wise.state.log_history if "loss" not in log]
    assert {3, 6, 9, 12, 15, 18} <= {log["step"] for log in others if "eval_loss" in log}
    assert any("train_runtime" in log for log in others)
    assert not any(key.startswith("gap/") for log in others for key in log)


def test_names_are_the_models(wise):
    header, steps = lines_of(Path(wise.args.output_dir))
    written = [group["parameters"] for group in header["groups"]]
    assert sorted(chain(*written)) == sorted(name for name, _ in wise.model.named_parameters())
    named = dict(wise.model.named_parameters())
    for names, group in zip(written, wise.optimizer.param_groups, strict=True):
        assert all(named[name] is p for name, p in zip(names, group["params"], strict=True))
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert steps[-1]["choice"] == ["".join(map(str, group["last_choice"])) for group in wise.optimizer.param_groups]


def test_switch_file_holds_the_scores(switch):
    header, steps = lines_of(Path(switch.args.output_dir))
    assert [group["parameters"] for group in header["groups"]] == [["spring.weight"], ["spring.bias"]]
    for line in steps:
        assert len(line["J"]) == 2
    # without J_ema the choice is the largest score
    assert [int(line["choice"]) for line in steps] == [line["J"].index(max(line["J"])) for line in steps]


def test_first_step_counts_as_no_change(tmp_path):
    """Even where it does not choose the candidate that is listed first."""
    trainer = tiny_trainer(tmp_path, optim_args="betas=0.99:0.5", max_steps=1, logging_steps=1)
    trainer.train()
    assert gap_logs(trainer)[1]["gap/share_0.5"] == 1
    assert gap_logs(trainer)[1]["gap/changed"] == 0


def test_own_beta2_in_keys(tmp_path):
    trainer = tiny_trainer(tmp_path, optim_args="betas=0.5/0.99:0.9/0.999", max_steps=1, logging_steps=1)
    trainer.train()
    values = gap_logs(trainer)[1]
    assert [k for k in values if k.startswith("gap/share")] == ["gap/share_0.5_0.99", "gap/share_0.9_0.999"]
    assert values["gap/beta1"] == pytest.approx(
        0.5 * values["gap/share_0.5_0.99"] + 0.9 * values["gap/share_0.9_0.999"]
    )


def test_one_group_has_no_group_keys(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=1, logging_steps=1)
    for name, p in trainer.model.named_parameters():
        p.requires_grad_("norm" not in name)
    trainer.train()
    assert gap_logs(trainer)[1].keys() == {
        "gap/beta1",
        "gap/share_0.8",
        "gap/share_0.99",
        "gap/dominance",
        "gap/changed",
        "gap/resets",
    }


def test_gradient_accumulation_counts_optimizer_steps(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=6, logging_steps=3, gradient_accumulation_steps=4, **WISE)
    trainer.train()
    _, steps = lines_of(tmp_path)
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    for step, values in gap_logs(trainer).items():
        assert counted(values) == pytest.approx(count_by_hand(tmp_path, step - 2, step), abs=1e-6)
    assert list(gap_logs(trainer)) == [3, 6]


def test_an_optimizer_whose_training_broke_off_is_let_go(tmp_path):
    """What is kept of who records it keeps neither of them."""
    model = Spring()
    optimizer = gap_hf.SGDM(model.parameters(), momentum=[0.9, 0.99], type="switch")
    callback = gap_hf.GapCallback()
    callback.on_train_begin(arguments(tmp_path), TrainerState(), TrainerControl(), model=model, optimizer=optimizer)
    assert callback.recorder is not None
    left = weakref.ref(optimizer), weakref.ref(callback)
    del model, optimizer, callback
    gc.collect()
    assert [one() for one in left] == [None, None]


# ---------------------------------------------------------------- where it comes from, and its option
def gap_callbacks(trainer: Trainer) -> list[type]:
    return [type(c) for c in trainer.callback_handler.callbacks if isinstance(c, gap_hf.GapCallback)]


def test_trainer_adds_it_once(tmp_path, wise):
    assert gap_callbacks(tiny_trainer(tmp_path)) == [DefaultGapCallback]
    theirs = tiny_trainer(tmp_path / "theirs", callbacks=[gap_hf.GapCallback()], max_steps=20, logging_steps=5, **WISE)
    theirs.train()
    assert gap_callbacks(theirs) == [DefaultGapCallback, gap_hf.GapCallback]
    totals = {
        step: {key: value for key, value in log.items() if "/group" not in key} for step, log in gap_logs(wise).items()
    }
    assert gap_logs(theirs) == totals
    assert len(totals[5]) == 8, "three shares, the mean, dominance, changes, resets, correlation"
    assert lines_of(tmp_path / "theirs") == lines_of(Path(wise.args.output_dir))


@pytest.mark.parametrize("alone", [False, True])
def test_record_false_writes_no_file(tmp_path, alone):
    trainer = tiny_trainer(tmp_path, callbacks=[gap_hf.GapCallback(record=False)])
    if alone:
        trainer.remove_callback(DefaultGapCallback)
        assert gap_callbacks(trainer) == [gap_hf.GapCallback]
    trainer.train()
    assert list(gap_logs(trainer)) == [4, 8]
    assert not list(tmp_path.rglob(FILENAME))


def test_removed_callback_is_gone(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.remove_callback(gap_hf.GapCallback)
    trainer.train()
    assert gap_logs(trainer) == {}
    assert not list(tmp_path.rglob(FILENAME))


@pytest.mark.parametrize("given", [{"optim_args": "type=default"}, {"optim": "adamw_torch"}, {"optim": "sgd"}])
def test_nothing_where_nothing_is_chosen(tmp_path, given):
    trainer = tiny_trainer(tmp_path, callbacks=[gap_hf.GapCallback()], **given)
    trainer.train()
    assert any("loss" in log for log in trainer.state.log_history)
    assert gap_logs(trainer) == {}
    assert not list(tmp_path.rglob(FILENAME))


def test_training_again_starts_a_new_file(tmp_path):
    """The same Trainer, and its optimizer with it, trained twice."""
    trainer = tiny_trainer(tmp_path, max_steps=10, logging_steps=5, **WISE)
    trainer.train()
    _, first = lines_of(tmp_path)
    trainer.train()
    _, second = lines_of(tmp_path)
    assert [line["step"] for line in second] == list(range(1, 11))
    assert first != second
    for step, values in gap_logs(trainer).items():
        assert counted(values) == pytest.approx(count_by_hand(tmp_path, step - 4, step), abs=1e-6)


def test_frozen_parameters_are_not_listed(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2, logging_steps=1)
    for name, p in trainer.model.named_parameters():
        p.requires_grad_("q_proj" in name)
    trainer.train()
    header, _ = lines_of(tmp_path)
    assert list(chain(*(group["parameters"] for group in header["groups"]))) == [
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)
    ]


def test_another_optimizer_in_its_place_is_refused(tmp_path):
    """Trainer(optimizers=...) overrides optim without a word."""
    model = tiny_model()
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, optim="gap_adamw"),
        train_dataset=tiny_data(),
        optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
    )
    with pytest.raises(ValueError, match="optim=gap_adamw was asked for, but torch.optim.sgd.SGD would train"):
        trainer.train()


@pytest.mark.parametrize("missing", ["optimizer.pt", "scheduler.pt", None])
def test_a_resume_without_optimizer_state_is_told(tmp_path, caplog, missing):
    options = {"save_strategy": "steps", "save_steps": 2}
    tiny_trainer(tmp_path, max_steps=2, **options).train()
    if missing:
        (tmp_path / "checkpoint-2" / missing).unlink()
    tiny_trainer(tmp_path, max_steps=3, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    told = [record.getMessage() for record in caplog.records if "without optimizer state" in record.getMessage()]
    assert len(told) == bool(missing)
    assert not told or "resumed at step 2" in told[0]
