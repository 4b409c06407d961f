"""``gap_hf.GapAdamW`` is GAP wherever it is built, and what is not GAP says so."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer

import gap_hf

from ..tiny import arguments, tiny_data, tiny_model, tiny_trainer


def params() -> list[torch.Tensor]:
    return [torch.zeros(3, requires_grad=True)]


def what_chooses(optimizer) -> list[tuple]:
    """The type and the candidates, and whether the decay is decoupled."""
    return [
        (optimizer.type, optimizer.family.parse(group), group["decoupled_weight_decay"])
        for group in optimizer.param_groups
    ]


def test_the_class_is_what_the_name_gives(tmp_path):
    by_name = tiny_trainer(tmp_path, optim="gap_adamw", adam_epsilon=1e-8).create_optimizer()
    by_class = gap_hf.GapAdamW(params())
    assert what_chooses(by_class) == what_chooses(by_name)[:1]
    assert what_chooses(by_class) == [("switch_parameter_wise", [(0.8, 0.999), (0.99, 0.999)], True)]


def test_plain_adamw_is_one_word_away():
    optimizer = gap_hf.GapAdamW(params(), type="default")
    assert what_chooses(optimizer) == [("default", [(0.9, 0.999)], True)]


@pytest.mark.parametrize(
    ("cls", "options", "shown"),
    [
        (gap_hf.GapAdamW, {"betas": (0.9, 0.999)}, "betas=(0.9, 0.999) is a single candidate"),
        (gap_hf.Adam, {"type": "switch"}, "betas=(0.9, 0.999) is a single candidate"),
        (gap_hf.SGDM, {"type": "switch", "momentum": 0.9}, "momentum=0.9 is a single candidate"),
    ],
)
def test_a_choice_among_one_warns(caplog, cls, options, shown):
    cls(params(), **options)
    assert shown in caplog.text
    assert "nothing to choose" in caplog.text


@pytest.mark.parametrize(
    ("cls", "options"),
    [(gap_hf.GapAdamW, {}), (gap_hf.Adam, {}), (gap_hf.SGDM, {"momentum": [0.5, 0.9], "type": "switch"})],
)
def test_nobody_else_is_warned(caplog, cls, options):
    cls(params(), **options)
    assert not caplog.records


@pytest.mark.parametrize("numbers", [[0.8, 0.99], [0.9], [0.5, 0.9, 0.99]])
def test_bare_numbers_are_refused_with_the_right_form(numbers):
    pairs = ", ".join(f"\\({number}, 0.999\\)" for number in numbers)
    with pytest.raises(ValueError, match=rf"ambiguous: give each candidate its beta2, betas=\[{pairs}\]"):
        gap_hf.GapAdamW(params(), betas=numbers, type="switch")


def test_lora_plus_makes_gap_groups():
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    optimizer = create_loraplus_optimizer(model, gap_hf.GapAdamW, lr=1e-3, loraplus_lr_ratio=16)
    assert {chosen[0] for chosen in what_chooses(optimizer)} == {"switch_parameter_wise"}
    assert {len(chosen[1]) for chosen in what_chooses(optimizer)} == {2}
    assert {group["lr"] for group in optimizer.param_groups if group["params"]} == {1e-3, 16e-3}
    model(input_ids=torch.ones(1, 4, dtype=torch.long), labels=torch.ones(1, 4, dtype=torch.long)).loss.backward()
    optimizer.step()


def test_trainers_class_and_options_are_gap(tmp_path):
    args = arguments(tmp_path, optim="adamw_torch", max_steps=2)
    trainer = Trainer(
        model=tiny_model(),
        args=args,
        train_dataset=tiny_data(),
        optimizer_cls_and_kwargs=(gap_hf.GapAdamW, {"lr": 1e-3}),
    )
    trainer.train()
    assert (tmp_path / "gap_choices.jsonl").exists()
    with pytest.raises(ValueError, match="betas=\\[0.8, 0.99\\] is ambiguous"):
        Trainer(
            model=tiny_model(), args=args, train_dataset=tiny_data(),
            optimizer_cls_and_kwargs=(gap_hf.GapAdamW, {"lr": 1e-3, "betas": [0.8, 0.99]}),
        ).create_optimizer()  # fmt: skip
