"""What every torch optimizer can do: closures, groups, state, copies, hooks, schedulers, gradient scaling."""

import copy
import io
import pickle

import pytest
import torch

import gap_hf

from .test_kernels import BETAS, parameters
from .twins import random_gradients

CASES = {
    "adam-switch": (gap_hf.Adam, {"betas": [(0.5, 0.99), (0.9, 0.999)], "type": "switch", "J_ema": 0.9}),
    "adamw-wise": (gap_hf.GapAdamW, {"betas": [(0.8, 0.999), (0.99, 0.999)], "type": "switch_parameter_wise"}),
    "sgdm-switch": (gap_hf.SGDM, {"momentum": [0.5, 0.9, 0.99], "type": "switch", "lr": 0.1}),
    "sgdm-wise": (gap_hf.SGDM, {"momentum": [0.9, 0.5], "type": "switch_parameter_wise", "nesterov": True}),
    "adam-default": (gap_hf.Adam, {}),
    "sgdm-default": (gap_hf.SGDM, {"momentum": 0.9}),
}
every = pytest.mark.parametrize(("cls", "options"), CASES.values(), ids=CASES)


def params(dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in [(6, 5), (4,), ()]]


def build(cls, options, dtype=torch.float32):
    ps = params(dtype)
    return ps, cls([{"params": ps[:2]}, {"params": ps[2:]}], hysteresis_threshold=2, **options)


def run(optimizer, ps, steps, seed):
    choices = []
    for _ in random_gradients(ps, steps, seed):
        optimizer.step()
        choices.append(copy.deepcopy([g["last_choice"] for g in optimizer.param_groups]))
    return choices


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_save_and_load_is_bitwise(cls, options, dtype):
    ps, optimizer = build(cls, options, dtype)
    run(optimizer, ps, 50, seed=1)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    qs, resumed = build(cls, options, dtype)
    for p, q in zip(ps, qs, strict=True):
        q.data.copy_(p.data)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert run(optimizer, ps, 50, seed=2) == run(resumed, qs, 50, seed=2)
    assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))
    theirs, ours = optimizer.state_dict(), resumed.state_dict()
    assert theirs["param_groups"] == ours["param_groups"]


@every
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike(cls, options, how):
    ps, optimizer = build(cls, options)
    run(optimizer, ps, 20, seed=1)
    twin = how(optimizer)
    qs = [p for g in twin.param_groups for p in g["params"]]
    assert not any(p is q for p, q in zip(ps, qs, strict=True))
    assert run(optimizer, ps, 20, seed=2) == run(twin, qs, 20, seed=2)
    assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))


def test_state_dict_holds_only_what_every_backend_can_save():
    """Parameter-shaped or 0-dim tensors in the state; plain numbers, text and lists in the groups."""
    for cls, options in CASES.values():
        ps, optimizer = build(cls, options)
        run(optimizer, ps, 3, seed=1)
        saved = optimizer.state_dict()
        for index, state in saved["state"].items():
            for key, value in state.items():
                assert torch.is_tensor(value), key
                assert value.shape in ((), ps[index].shape), key
        for group in saved["param_groups"]:
            for key, value in group.items():
                flat = value if isinstance(value, (list, tuple)) else [value]
                flat = [x for v in flat for x in (v if isinstance(v, tuple) else [v])]
                assert all(v is None or isinstance(v, (int, float, str, bool)) for v in flat), key


def test_another_optimizers_state_is_refused():
    ps = params()
    other = torch.optim.NAdam(ps)  # it has betas and eps, too, but is not what GapAdamW is
    with pytest.raises(ValueError, match="not saved by GapAdamW"):
        gap_hf.GapAdamW(ps).load_state_dict(other.state_dict())


def test_another_models_state_is_refused():
    w = torch.zeros(3, requires_grad=True)
    w.grad = torch.ones(3)
    optimizer = gap_hf.GapAdamW([w])
    optimizer.step()
    saved = optimizer.state_dict()
    with pytest.raises(
        ValueError, match=r"another model.*exp_avg_0 of parameter 0 of group 0 has the shape \(3,\), .* \(4,\)"
    ):
        gap_hf.GapAdamW([torch.zeros(4, requires_grad=True)]).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"groups hold \[1\] parameters, this optimizer's \[2\]"):
        gap_hf.GapAdamW([torch.zeros(3, requires_grad=True) for _ in range(2)]).load_state_dict(saved)


def test_loading_other_candidates_says_so(caplog):
    ps = params()
    saved = gap_hf.Adam(ps, betas=[(0.5, 0.9), (0.9, 0.9)], type="switch").state_dict()
    optimizer = gap_hf.Adam(ps, betas=[(0.8, 0.9), (0.9, 0.9)], type="switch")
    optimizer.load_state_dict(saved)
    assert "from the checkpoint: betas=[(0.5, 0.9), (0.9, 0.9)] (this run: [(0.8, 0.9), (0.9, 0.9)])" in caplog.text
    assert optimizer.candidate_list(optimizer.param_groups[0]) == [("0.5", 0.5, "adam"), ("0.9", 0.9, "adam")]
    caplog.clear()
    optimizer.load_state_dict(saved)
    assert not caplog.text


@every
def test_closure(cls, options):
    w = torch.zeros(3, requires_grad=True)
    optimizer = cls([w], **options)
    target = torch.tensor([1.0, -2.0, 3.0])

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (w - target).square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(50)]
    assert losses[0] == 14.0
    assert losses[-1] < losses[0]


def test_a_group_added_later_joins_the_global_choice():
    p, q = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = gap_hf.SGDM([p], momentum=[0.0, 0.9], type="switch", J_ema=0.5)
    for _ in range(10):
        p.grad = torch.ones(1)
        optimizer.step()
    optimizer.add_param_group({"params": [q], "lr": 1.0})
    first, second = optimizer.param_groups
    assert first["last_choice"] == second["last_choice"] == 1
    assert first["J_bar"] == second["J_bar"]
    assert first["J_bar"] is not second["J_bar"]
    p.grad, q.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert q.item() == -1.0


def test_a_group_added_later_chooses_for_itself_parameter_wise():
    p, q = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = gap_hf.SGDM([p], momentum=[0.0, 0.9], type="switch_parameter_wise")
    for _ in range(10):
        p.grad = torch.ones(1)
        optimizer.step()
    optimizer.add_param_group({"params": [q]})
    p.grad, q.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert [g["last_choice"] for g in optimizer.param_groups] == [[1], [0]]


@every
def test_an_empty_group_is_harmless(cls, options):
    """Trainer makes one of its two groups empty with LoRA."""
    p = torch.ones(3, requires_grad=True)
    optimizer = cls([{"params": [p]}, {"params": []}], **options)
    p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.param_groups[1]["last_choice"] in (0, [])
    optimizer.load_state_dict(optimizer.state_dict())


def test_named_parameters_are_taken_as_torch_takes_them():
    net = torch.nn.Linear(2, 1)
    optimizer = gap_hf.GapAdamW(net.named_parameters(), betas=[(0.8, 0.9), (0.9, 0.9)], type="switch")
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


def test_schedulers_and_tensor_learning_rates():
    p = torch.zeros(1, requires_grad=True)
    optimizer = gap_hf.SGDM([p], lr=1.0, momentum=[0.0], type="switch")
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    for expected in (-1.0, -1.5, -1.75):
        p.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        assert p.item() == expected
    optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
    p.grad = torch.ones(1)
    optimizer.step()
    assert p.item() == -2.0


def test_step_hooks_run():
    p = torch.zeros(1, requires_grad=True)
    optimizer = gap_hf.SGDM([p], momentum=[0.5], type="switch")
    seen = []
    optimizer.register_step_pre_hook(lambda *a: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *a: seen.append("post"))
    p.grad = torch.ones(1)
    optimizer.step()
    assert seen == ["pre", "post"]


def test_gradient_scaler_skips_the_overflowing_step():
    p = torch.zeros(2, requires_grad=True)
    optimizer = gap_hf.GapAdamW([p], betas=[(0.5, 0.9), (0.9, 0.9)], type="switch")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for bad in (False, True, False):
        optimizer.zero_grad()
        scaler.scale((p * (float("inf") if bad else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.steps_taken == 2
    assert p.isfinite().all()


def test_gradients_are_left_alone():
    p = torch.ones(3, requires_grad=True)
    for cls, options in CASES.values():
        optimizer = cls([p], **{**options, "weight_decay": 0.1})
        p.grad = torch.ones(3)
        optimizer.step()
        assert torch.equal(p.grad, torch.ones(3))


README_CONFIGS = [
    (gap_hf.Adam, {"lr": 1e-3, "betas": [(0.5, 0.999), (0.99, 0.999)], "weight_decay": 0.01,
                   "decoupled_weight_decay": True, "type": "switch_parameter_wise"}),
    (gap_hf.Adam, {"lr": 2e-4, "betas": [(0.8, 0.999), (0.99, 0.999)], "weight_decay": 0,
                   "decoupled_weight_decay": True, "type": "switch_parameter_wise"}),
    (gap_hf.Adam, {"lr": 1e-3, "betas": [(0.5, 0.999), (0.9, 0.999), (0.99, 0.999)], "weight_decay": 0.01,
                   "decoupled_weight_decay": True, "type": "switch", "J_ema": 0.9}),
    (gap_hf.SGDM, {"lr": 0.1, "momentum": [0.5, 0.9, 0.99], "type": "switch"}),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "options"), README_CONFIGS, ids=["vision", "llm", "small-batch", "sgd"])
def test_the_recommended_configs_run_unchanged_and_learn(cls, options):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x = torch.randn(64, 8)
    y = x[:, :1] * x[:, 1:2]
    optimizer = cls(net.parameters(), **options)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert set(optimizer.defaults) >= set(options)


def test_torch_compile_runs_the_step_as_it_is():
    """Directly, and inside a function with other things in it; groups and results are those of the plain step."""
    results = []
    for wrap in (lambda step: step, torch.compile, lambda step: torch.compile(lambda: step())):
        ps = parameters((6, 5), (4,))
        optimizer = gap_hf.GapAdamW(ps, betas=BETAS, type="switch")
        step = wrap(optimizer.step)
        for _ in random_gradients(ps, 5):
            step()
        results.append((ps, dict(optimizer.param_groups[0])))
    plain, *compiled = results
    for ps, group in compiled:
        assert all(torch.equal(p, q) for p, q in zip(plain[0], ps, strict=True))
        assert {**group, "params": None} == {**plain[1], "params": None}
