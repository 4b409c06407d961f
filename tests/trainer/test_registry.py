"""The optim names: what they build, and every way to write them down and read them back."""

import dataclasses
import importlib
import importlib.metadata
import json
import sys

import pytest
import torch
import transformers
from transformers import HfArgumentParser, Trainer, TrainingArguments
from transformers.training_args import OptimizerNames
from trl import SFTConfig, TrlParser

import gap_hf
from gap_hf.trainer.presets import PRESETS

from ..tiny import arguments, run, tiny_data, tiny_model, tiny_trainer

LLM = {"type": "switch_parameter_wise", "betas": [(0.8, 0.999), (0.99, 0.999)]}
SGD = {"type": "switch", "momentum": [0.5, 0.9, 0.99]}
EXPECTED = {
    "gap_adamw": (gap_hf.GapAdamW, LLM | {"decoupled_weight_decay": True}),
    "gap_adam": (gap_hf.Adam, LLM | {"decoupled_weight_decay": False}),
    "gap_sgdm": (gap_hf.SGDM, SGD),
    "gap_adamw_mix": (
        gap_hf.GapAdamW,
        {"type": "mix", "betas": [(0.0, 0.999), (0.9, 0.999)], "weights": [0.3, 0.7], "decoupled_weight_decay": True},
    ),
    "gap_sgdm_mix": (gap_hf.SGDM, {"type": "mix", "momentum": [0.0, 0.9], "weights": [0.3, 0.7]}),
    "adai": (gap_hf.Adai, {"decoupled_weight_decay": False, "eps": 1e-3}),
    "adaiw": (gap_hf.AdaiW, {"decoupled_weight_decay": True, "dampening": 1.0}),
    "adaiv2": (gap_hf.AdaiV2, {"decoupled_weight_decay": True, "dampening": 1.0}),
    "adams": (gap_hf.Adams, {"betas": (0.9, 0.95), "scalar_vector_weight_decay": 0.0, "use_spectral_decay": True}),
    "rf_adamw": (gap_hf.RFAdamW, {"type": "default", "betas": [(0.9, 0.999)], "eps": 1e-4, "batch_size": "told"}),
    "rf_rmsprop": (gap_hf.RFRMSprop, {"type": "default", "momentum": 0.9, "eps": 1e-4, "batch_size": "told"}),
    "if_shampoo": (gap_hf.IFShampoo, {"type": "default", "momentum": 0.9, "max_axis": 4096, "batch_size": "told"}),
    "gap_over": (gap_hf.GapOver, {"type": "mix", "candidates": "adamw:nadam"}),
    "gap_adamw_llm_lora": (gap_hf.GapAdamW, LLM),
    "gap_adamw_vision_lora": (gap_hf.GapAdamW, LLM | {"betas": [(0.5, 0.999), (0.99, 0.999)]}),
    "gap_adamw_small_batch": (
        gap_hf.GapAdamW,
        {"type": "switch", "betas": [(0.5, 0.999), (0.9, 0.999), (0.99, 0.999)], "J_ema": 0.9},
    ),
    "gap_sgdm_baseline": (gap_hf.SGDM, SGD),
}


def groups_of(tmp_path, **given) -> list[dict]:
    """The parameter groups of the optimizer that Trainer builds."""
    return tiny_trainer(tmp_path, **given).create_optimizer().param_groups


def options_of(tmp_path, **given) -> dict:
    """The options of those groups, which must agree but for the decay."""
    first, second = ({k: v for k, v in g.items() if k not in PER_GROUP} for g in groups_of(tmp_path, **given))
    assert first == second
    return first


PER_GROUP = ("params", "weight_decay", "count", "last_choice", "negative_steps")


def test_every_name_is_expected():
    assert list(PRESETS) == list(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_name_builds(tmp_path, name):
    args = {"optim_args": "candidates=adamw:nadam"} if name == "gap_over" else {}
    optimizer = tiny_trainer(tmp_path, optim=name, **args).create_optimizer()
    cls, options = EXPECTED[name]
    assert type(optimizer) is cls
    assert {key: optimizer.param_groups[0][key] for key in options} == options


def test_the_class_alone_is_what_the_name_gives(tmp_path):
    """``GapAdamW(parameters)`` and ``optim="gap_adamw"``, but for what TrainingArguments owns."""
    named = tiny_trainer(tmp_path).create_optimizer()
    alone = gap_hf.GapAdamW(named.param_groups[0]["params"])
    assert alone.family.parse(alone.param_groups[0]) == named.family.parse(named.param_groups[0])
    owned = ("params", "betas", "lr", "weight_decay")
    ours, theirs = ({k: v for k, v in o.param_groups[0].items() if k not in owned} for o in (alone, named))
    assert ours == theirs


@pytest.mark.parametrize("name", ["gap_adamw", "gap_adam", "gap_sgdm"])
def test_type_alone_changes_just_that(tmp_path, name):
    other = {"switch": "switch_parameter_wise", "switch_parameter_wise": "switch"}[EXPECTED[name][1]["type"]]
    plain = options_of(tmp_path, optim=name)
    changed = options_of(tmp_path, optim=name, optim_args=f"type={other}")
    plain.pop("J_bar", None), changed.pop("J_bar", None)
    assert changed == plain | {"type": other}


def test_training_arguments_are_respected(tmp_path):
    first, second = groups_of(tmp_path, learning_rate=0.03, weight_decay=0.2, adam_epsilon=1e-6, adam_beta2=0.95)
    assert (first["weight_decay"], second["weight_decay"]) == (0.2, 0.0)
    for group in (first, second):
        assert (group["lr"], group["eps"]) == (0.03, 1e-6)
        assert group["betas"] == [(0.8, 0.95), (0.99, 0.95)]


def test_trainer_default_decay_wins_over_the_optimizers(tmp_path):
    assert [group["weight_decay"] for group in groups_of(tmp_path)] == [0.0, 0.0]


def test_sgdm_takes_rate_and_decay(tmp_path):
    first, second = groups_of(tmp_path, optim="gap_sgdm", learning_rate=0.03, weight_decay=0.2)
    assert (first["lr"], first["weight_decay"], second["weight_decay"]) == (0.03, 0.2, 0.0)


def test_own_beta2_wins_over_adam_beta2(tmp_path):
    mixed = options_of(tmp_path, adam_beta2=0.95, optim_args="betas=0.8:0.99/0.9999")
    assert mixed["betas"] == [(0.8, 0.95), (0.99, 0.9999)]


def test_eps_of_optim_args_wins(tmp_path):
    assert options_of(tmp_path, adam_epsilon=1e-6, optim_args="eps=1e-4")["eps"] == 1e-4


def test_type_default_is_torch_adamw(tmp_path):
    given = {"adam_beta1": 0.7, "adam_beta2": 0.95, "weight_decay": 0.1}
    ours = tiny_trainer(tmp_path / "gap", optim_args="type=default", **given)
    assert ours.create_optimizer().param_groups[0]["betas"] == [(0.7, 0.95)]
    theirs = tiny_trainer(tmp_path / "torch", optim="adamw_torch", **given)
    ours.train(), theirs.train()
    before = dict(tiny_model().named_parameters())
    for (name, a), b in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert not torch.equal(a, before[name])


def test_adam_beta1_is_said_to_have_no_effect(tmp_path, caplog):
    groups_of(tmp_path)
    assert "adam_beta1" not in caplog.text
    groups_of(tmp_path, adam_beta1=0.7)
    assert "adam_beta1=0.7 has no effect" in caplog.text
    assert "betas=0.8:0.99" in caplog.text


def test_matrices_that_decay_spectrally_are_chosen_by_name(tmp_path):
    trainer = tiny_trainer(tmp_path, optim="adams", optim_args="use_spectral_decay=q_proj|layers.1.mlp")
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    seen = []
    for group in trainer.create_optimizer().param_groups:
        flags = group["use_spectral_decay"]
        flags = flags if isinstance(flags, list) else [flags] * len(group["params"])
        for p, flag in zip(group["params"], flags, strict=True):
            assert flag == ("q_proj" in names[id(p)] or "layers.1.mlp" in names[id(p)])
            seen.append(flag)
    assert sum(seen) == 5
    with pytest.raises(ValueError, match=r"'no_such_name' is found in no parameter's name"):
        tiny_trainer(tmp_path, optim="adams", optim_args="use_spectral_decay=no_such_name").create_optimizer()


@pytest.mark.parametrize("name", [name for name in EXPECTED if PRESETS[name].recommended])
def test_recommended(tmp_path, caplog, name):
    given = gap_hf.recommended(name)
    group = groups_of(tmp_path, **given)[0]
    rest = {key: given.pop(key) for key in list(given) if key == "max_grad_norm"}
    assert {"optim": name, "learning_rate": group["lr"], "weight_decay": group["weight_decay"]} == given
    assert "meant for" not in caplog.text
    assert "max_grad_norm" not in caplog.text
    assert bool(rest) == ("batch_size" in group)


def test_preset_with_trainers_learning_rate_warns(tmp_path, caplog):
    default = TrainingArguments.__dataclass_fields__["learning_rate"].default
    groups_of(tmp_path, optim="gap_adamw_vision_lora", learning_rate=default)
    assert "gap_hf.recommended('gap_adamw_vision_lora')" in caplog.text
    caplog.clear()
    groups_of(tmp_path, optim="gap_adamw_vision_lora", learning_rate=3e-4)
    assert caplog.text == ""


def test_recommended_needs_a_preset():
    with pytest.raises(ValueError, match="'gap_adamw' is not a preset; expected one of adaiw, adams, "):
        gap_hf.recommended("gap_adamw")


def test_class_and_options(tmp_path):
    """Without a name: Trainer(optimizer_cls_and_kwargs=...)."""
    options = {"lr": 0.02, "betas": [(0.5, 0.9), (0.9, 0.99)], "type": "switch", "weight_decay": 0.3}
    trainer = Trainer(
        model=tiny_model(),
        args=arguments(tmp_path, optim="adamw_torch", max_steps=4, logging_steps=2),
        train_dataset=tiny_data(),
        optimizer_cls_and_kwargs=(gap_hf.GapAdamW, options),
    )
    trainer.train()
    group = trainer.optimizer.param_groups[0]
    assert (group["betas"], group["type"]) == ([(0.5, 0.9), (0.9, 0.99)], "switch")
    assert "gap/beta1" in trainer.state.log_history[0]
    assert (tmp_path / "gap_choices.jsonl").is_file()


# ---------------------------------------------------------------- command line, files, checkpoints
GIVEN = {"optim": "gap_adamw_small_batch", "optim_args": "type=switch_parameter_wise,J_ema=0,betas=0.5/0.9:0.9"}


def check(args: TrainingArguments) -> None:
    assert args.optim is OptimizerNames("gap_adamw_small_batch")
    assert args.optim_args == GIVEN["optim_args"]
    cls, options = Trainer.get_optimizer_cls_and_kwargs(args)
    assert cls is gap_hf.GapAdamW
    assert (options["type"], options["betas"]) == ("switch_parameter_wise", [(0.5, 0.9), (0.9, args.adam_beta2)])


def test_command_line(tmp_path):
    line = ["--output_dir", str(tmp_path), "--use_cpu", "--optim", GIVEN["optim"], "--optim_args", GIVEN["optim_args"]]
    for parser, cls in ((HfArgumentParser, TrainingArguments), (TrlParser, SFTConfig)):
        (args,) = parser(cls).parse_args_into_dataclasses([*line, "--bf16", "false"])
        check(args)


def test_command_line_offers_the_names(capsys):
    with pytest.raises(SystemExit):
        HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(["--optim", "gap_adamx"])
    message = capsys.readouterr().err
    assert "invalid choice: 'gap_adamx'" in message
    assert "gap_adamw" in message


@pytest.mark.parametrize("format", ["yaml", "json"])
def test_file(tmp_path, format):
    values = {"output_dir": str(tmp_path), "use_cpu": True, **GIVEN}
    path = tmp_path / f"args.{format}"
    # JSON's strings are YAML's, too
    text = "\n".join(f"{k}: {json.dumps(v)}" for k, v in values.items()) if format == "yaml" else json.dumps(values)
    path.write_text(text, encoding="utf-8")
    (args,) = getattr(HfArgumentParser(TrainingArguments), f"parse_{format}_file")(str(path))
    check(args)


def test_yaml_config_of_trl(tmp_path):
    path = tmp_path / "args.yaml"
    path.write_text(
        f"output_dir: {tmp_path}\nuse_cpu: true\nbf16: false\noptim: {GIVEN['optim']}\n"
        f"optim_args: {GIVEN['optim_args']}\n",
        encoding="utf-8",
    )
    (args,) = TrlParser(SFTConfig).parse_args_and_config(["--config", str(path)])
    check(args)


@pytest.mark.parametrize("cls", [TrainingArguments, SFTConfig])
def test_to_dict_and_json(tmp_path, cls):
    args = cls(output_dir=str(tmp_path), use_cpu=True, bf16=False, **GIVEN)
    check(args)
    for values in (args.to_dict(), json.loads(args.to_json_string())):
        assert {key: values[key] for key in GIVEN} == GIVEN
        check(cls(output_dir=str(tmp_path), use_cpu=True, bf16=False, **{key: values[key] for key in GIVEN}))
    assert args.to_sanitized_dict()["optim"] == GIVEN["optim"]
    check(dataclasses.replace(args))


LOAD = """
import json, sys, torch
args = torch.load(sys.argv[1], weights_only=False)
from transformers import Trainer
cls, options = Trainer.get_optimizer_cls_and_kwargs(args)
print(json.dumps([args.optim.value, args.optim_args, cls.__name__, options["betas"], args.to_dict()["optim"]]))
"""


def test_training_args_bin_loads_where_gap_hf_was_not_imported(tmp_path):
    trainer = tiny_trainer(tmp_path, **GIVEN)
    trainer.save_model()
    path = tmp_path / "training_args.bin"
    check(torch.load(path, weights_only=False))
    done = run([sys.executable, "-c", LOAD, path])
    assert done.returncode == 0, done.stderr
    name, text, cls, betas, in_dict = json.loads(done.stdout)
    assert (name, text, cls, in_dict) == (GIVEN["optim"], GIVEN["optim_args"], "GapAdamW", GIVEN["optim"])
    assert betas == [[0.5, 0.9], [0.9, 0.999]]


# ---------------------------------------------------------------- registering
def test_registering_again_changes_nothing():
    def state():
        return list(OptimizerNames), list(transformers.trainer.DEFAULT_CALLBACKS), Trainer.get_optimizer_cls_and_kwargs

    before = state()
    assert gap_hf.register() is True
    importlib.reload(gap_hf)
    assert state() == before
    names = [member.value for member in OptimizerNames]
    assert [name for name in names if name in PRESETS] == list(EXPECTED)
    assert len(names) == len(set(names))


def test_other_optimizers_are_as_before(tmp_path):
    cls, options = Trainer.get_optimizer_cls_and_kwargs(arguments(tmp_path, optim="adamw_torch", adam_beta1=0.7))
    assert cls is torch.optim.AdamW
    assert options["betas"] == (0.7, 0.999)
    with pytest.raises(ValueError, match="gap_adamx"):
        arguments(tmp_path, optim="gap_adamx")


UNSUPPORTED = """
import importlib.metadata, warnings
real = importlib.metadata.version
from transformers.training_args import OptimizerNames
importlib.metadata.version = lambda name: VERSION if name == "transformers" else real(name)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import gap_hf
print([str(w.message) for w in caught if "gap_hf" in str(w.message)])
print("gap_adamw" in OptimizerNames._value2member_map_, gap_hf.register.__name__, gap_hf.GapAdamW.__name__)
"""


def test_import_with_an_unsupported_version():
    done = run([sys.executable, "-W", "ignore", "-c", UNSUPPORTED.replace("VERSION", "'4.40.1'")])
    assert done.returncode == 0, done.stderr
    message, state = done.stdout.strip().splitlines()
    assert "this is 4.40.1" in message
    assert "Trainer(optimizer_cls_and_kwargs=(gap_hf.GapAdamW, {...}))" in message
    assert state == "False register GapAdamW"


@pytest.mark.parametrize(("version", "good"), [("4.56.2", False), ("4.57.6", True), ("5.99.0", True), ("6.0.0", False)])
def test_supported_versions(monkeypatch, recwarn, version, good):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == "transformers" else real(name))
    assert gap_hf.register() is good
    assert [version in str(w.message) for w in recwarn] == ([] if good else [True])


def test_callback_stays_where_a_host_replaces_the_default_ones(tmp_path, monkeypatch):
    """ms-swift does, when it is imported."""
    monkeypatch.setattr(transformers.trainer, "DEFAULT_CALLBACKS", [transformers.trainer.DefaultFlowCallback])
    trainer = Trainer(torch.nn.Linear(2, 1), TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    assert [type(c).__name__ for c in trainer.callback_handler.callbacks].count("DefaultGapCallback") == 1
    monkeypatch.undo()
    trainer = Trainer(torch.nn.Linear(2, 1), TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    assert [type(c).__name__ for c in trainer.callback_handler.callbacks].count("DefaultGapCallback") == 1
