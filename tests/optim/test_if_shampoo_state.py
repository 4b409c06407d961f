"""Inverse-free Shampoo as an optimizer: it never waits, its state can be saved and loaded, and what it refuses."""

import copy

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainingArguments
from transformers.trainer import Trainer

import gap_hf

from .shampoo import CASES, KERNELS, B, parameters, run, state_of


class Reads(TorchDispatchMode):
    """Collects the tensors whose value the host reads."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_local_scalar_dense" in str(func) or "nonzero" in str(func):
            self.found.append(args[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", ["default", "interval", "mix"])
def test_nothing_waits_for_the_device(case, kernel):
    """The host reads only the counts of steps, which it has; a choice by scores is read, too, once a step."""
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size=B, **CASES[case], **KERNELS[kernel])
    run(optimizer, ps, 0, 2)
    with Reads() as reads:
        run(optimizer, ps, 2, 6)
    steps = {optimizer.state[p]["step"].data_ptr() for p in ps}
    others = [t for t in reads.found if t.data_ptr() not in steps]
    assert reads.found
    assert all(optimizer.state[p]["step"].device.type == "cpu" for p in ps)
    if case != "interval":
        assert not others
    else:
        assert len(others) <= 4 * 2, "what was chosen, and whether a reset is due"


# ---------------------------------------------------------------- saving and loading
@pytest.mark.parametrize("case", ["default", "switch", "interval", "capped", "mix-each"])
def test_resume_is_bitwise_and_leaves_the_callers_dict_alone(case, tmp_path):
    ps, qs = parameters(), parameters()
    one, two = (gap_hf.IFShampoo(x, batch_size=B, **CASES[case]) for x in (ps, qs))
    run(one, ps, 0, 8)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=False)
    kept = copy.deepcopy(saved)
    for p, q in zip(ps, qs, strict=True):
        q.data.copy_(p.data)
    two.load_state_dict(saved)
    assert saved.keys() == kept.keys()
    assert saved["param_groups"] == kept["param_groups"]
    for i, state in kept["state"].items():
        assert saved["state"][i].keys() == state.keys()
        assert all(torch.equal(saved["state"][i][name], value) for name, value in state.items())
    run(one, ps, 8, 16)
    run(two, qs, 8, 16)
    for p, q in zip(ps, qs, strict=True):
        assert torch.equal(p, q)
    assert all(torch.equal(one.state[p]["factors"], two.state[q]["factors"]) for p, q in zip(ps, qs, strict=True))


def test_a_closure():
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size=B)

    def closure():
        for p in ps:
            p.grad = torch.ones_like(p)
        return torch.tensor(3.0)

    assert optimizer.step(closure) == 3
    assert all(float(optimizer.state[p]["step"]) == 1 for p in ps)


def test_a_copy_goes_on_alike():
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size=B, **CASES["switch"])
    run(optimizer, ps, 0, 5)
    other = copy.deepcopy(optimizer)
    qs = other.param_groups[0]["params"]
    run(optimizer, ps, 5, 10)
    run(other, qs, 5, 10)
    assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))


def test_through_torchs_checkpoints_and_by_name():
    models = [torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 2)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    one, two = (gap_hf.IFShampoo(m.parameters(), batch_size=B, **CASES["switch"]) for m in models)
    ps, qs = (list(m.parameters()) for m in models)
    run(one, ps, 0, 5)
    models[1].load_state_dict(models[0].state_dict())
    set_optimizer_state_dict(models[1], two, copy.deepcopy(get_optimizer_state_dict(models[0], one)))
    run(one, ps, 5, 9)
    run(two, qs, 5, 9)
    assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))
    assert gap_hf.consolidated_state_dict(one, models[0])["state"]["0.weight"]["factors"].shape == (4 * 4 + 5 * 5,)


def test_a_state_with_other_factors_is_refused():
    ps, qs = parameters(), parameters()
    one, two = gap_hf.IFShampoo(ps, batch_size=B), gap_hf.IFShampoo(qs, batch_size=B, max_axis=5)
    run(one, ps, 0, 2)
    run(two, qs, 0, 2)
    damaged, before = copy.deepcopy(one.state_dict()), copy.deepcopy(state_of(two))
    damaged["state"][0]["factors"] = damaged["state"][0]["factors"][:-1]
    with pytest.raises(ValueError, match=r"factors of parameter 0 of group 0 has the shape \(73,\)"):
        two.load_state_dict(damaged)
    assert all(torch.equal(value, before[key]) for key, value in state_of(two).items())
    two.load_state_dict(one.state_dict())
    assert two.param_groups[0]["max_axis"] == 4096, "the checkpoint's, which its factors were made with"


# ---------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta2": 1.0}, ValueError, r"beta2=1.0 is out of range; expected a number in \[0, 1\)"),
        ({"alpha2": -0.1}, ValueError, "alpha2=-0.1 is out of range"),
        ({"damping": -1.0}, ValueError, "damping=-1.0 is out of range"),
        ({"update_interval": 0}, ValueError, "update_interval=0 is out of range; expected a whole number of steps"),
        ({"update_interval": 2.0}, ValueError, "update_interval=2.0 is out of range"),
        ({"max_axis": 0}, ValueError, "max_axis=0 is out of range"),
        ({"momentum": [0.5, 0.9]}, ValueError, "takes one candidate, got 2"),
        ({"momentum": 1.0}, ValueError, "momentum=1.0 is malformed or out of range"),
        ({"capturable": True}, TypeError, "capturable"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        gap_hf.IFShampoo(parameters(), batch_size=B, **options)


def test_there_is_no_fused_kernel():
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size=B, fused=True)
    with pytest.raises(RuntimeError, match="fused=True can't be done: there is none for cpu in the if_shampoo family"):
        run(optimizer, ps, 0, 1)
    assert not any(optimizer.state[p].get("step", 0) for p in ps)


def test_the_batch_size_is_never_guessed():
    with pytest.raises(TypeError, match="batch_size"):
        gap_hf.IFShampoo(parameters())
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size="told")
    with pytest.raises(ValueError, match="nobody has called tell_batch_size before this step"):
        run(optimizer, ps, 0, 1)
    optimizer.tell_batch_size(5)
    run(optimizer, ps, 0, 1)
    assert optimizer.param_groups[0]["last_batch_size"] == 5


def test_as_a_name_in_trainer(tmp_path):
    text = "momentum=0.5:0.9,type=switch,update_interval=10,max_axis=1024,damping=1e-4"
    args = TrainingArguments(str(tmp_path), optim="if_shampoo", use_cpu=True, report_to=[], optim_args=text)
    cls, options = Trainer.get_optimizer_cls_and_kwargs(args)
    group = cls(parameters(), **options).param_groups[0]
    assert cls is gap_hf.IFShampoo
    assert [group[name] for name in ("momentum", "update_interval", "max_axis", "damping", "batch_size")] == [
        [0.5, 0.9], 10, 1024, 1e-4, "told",
    ]  # fmt: skip
