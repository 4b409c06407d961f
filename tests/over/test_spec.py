"""How candidates are written."""

import json

import pytest
import torch
import yaml

from gap_hf.optim.over import classes
from gap_hf.optim.over.spec import Spec, of_text, read

from . import optimizers

TEXT = "adamw:lion/lr_scale/0.1:adabelief/betas/0.9|0.99/rectify/false"


@pytest.fixture
def nobody_registered(monkeypatch):
    monkeypatch.setattr(classes, "REGISTERED", {})


def test_a_text():
    adamw, lion, adabelief = read(TEXT)
    assert adamw == Spec("adamw")
    assert adamw.optimizer is torch.optim.AdamW
    assert lion == Spec("lion", (), 0.1)
    assert lion.optimizer.__module__ == "pytorch_optimizer.optimizer.lion"
    assert adabelief.options == (("betas", (0.9, 0.99)), ("rectify", False))
    assert (
        ":".join(spec.text for spec in read(TEXT)) == "adamw:lion/lr_scale/0.1:adabelief/betas/0.9|0.99/rectify/False"
    )


def test_what_it_writes_it_reads():
    specs = read(TEXT)
    assert tuple(spec for one in specs for spec in of_text(one.text)) == specs


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_file(tmp_path, suffix):
    path = tmp_path / f"candidates.{suffix}"
    listed = ["adamw", {"name": "lion", "lr_scale": 0.1}, {"name": "adabelief", "betas": [0.9, 0.99], "rectify": False}]
    path.write_text(json.dumps(listed) if suffix == "json" else yaml.safe_dump(listed))
    assert read(str(path)) == read(TEXT)


def test_classes_and_paths():
    path = "tests.over.optimizers.Plain"
    assert read([optimizers.Plain, path]) == (Spec(path), Spec(path))
    assert read(optimizers.Plain)[0].optimizer is optimizers.Plain
    assert read("torch.optim.AdamW")[0].optimizer is torch.optim.AdamW


def test_a_class_that_has_no_path_is_registered(nobody_registered):
    class Local(optimizers.Plain):
        pass

    with pytest.raises(ValueError, match=r"gap_hf.register_candidate\('local', Local\)"):
        read([Local])
    classes.register("local", Local)
    assert read([Local]) == (Spec("local"),)
    assert read("local")[0].optimizer is Local
    with pytest.raises(ValueError, match="choose another name"):
        classes.register("local", optimizers.Plain)
    with pytest.raises(ValueError, match="letters, digits"):
        classes.register("my adam", Local)
    with pytest.raises(TypeError, match="not a subclass"):
        classes.register("text", str)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("adamww", "there is no optimizer 'adamww'; did you mean 'adamw'?"),
        ("adamw/betas", "is not a name with pairs of option and value; for example candidates=adamw:lion"),
        ("adamw:", "is not a name"),
        ("adamw/eps/1/eps/2", "sets an option twice"),
        ("adamw/beta/0.9", "candidate 'adamw' has no option 'beta'; it takes lr_scale, betas, eps"),
        ("adamw/lr/0.1", "lr is not a candidate's own; use lr_scale"),
        ("adamw/maximize/true", "leave it out"),
        ("adamw/lr_scale/0", "lr_scale=0 is out of range"),
        ("adamw/lr_scale/fast", "lr_scale='fast' is out of range"),
        ("no.such.Thing", "can't be imported"),
        ("torch.nn.Linear", "is not a subclass of torch.optim.Optimizer"),
        ("nowhere.yaml", "the file can't be read"),
        ([], "expected a list or a text"),
        (3, "expected a list or a text"),
        ([{"lr_scale": 1}], "expected a mapping with a name"),
        ([{"name": "adamw", "betas": [[0.9, 0.99]]}], "betas=([0.9, 0.99],) can't be written in a checkpoint"),
        ([{"name": "adamw", "eps": float("nan")}], "eps=nan can't be written"),
        ([{"name": "tests.over.optimizers.Plain", "weight_decay": {}}], "weight_decay={} can't be written"),
        ([{"name": "lion", "how": "a:b"}], "how='a:b' can't be written"),
    ],
)
def test_what_is_wrong_is_said(given, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read(given)
    assert message in str(error.value)


def test_a_file_that_holds_no_list(tmp_path):
    path = tmp_path / "one.json"
    path.write_text('{"name": "adamw"}')
    with pytest.raises(ValueError, match="expected a list of optimizers"):
        read(str(path))
