"""What a loaded state may be, what it does to the options, and that a refused one changes nothing."""

import copy
import zipfile
from pathlib import Path

import pytest
import torch

import gap_hf

from .test_shell import build, params, run
from .twins import KERNELS, random_gradients

B = [(0.8, 0.999), (0.99, 0.999)]
OLD = sorted((Path(__file__).parent / "saved_by_0_1_0").glob("*.pt"))

VARIANTS = {
    "wise": (gap_hf.GapAdamW, {"betas": B, "type": "switch_parameter_wise"}),
    "switch": (gap_hf.GapAdamW, {"betas": B, "type": "switch", "J_ema": 0.5}),
    "default": (gap_hf.GapAdamW, {"type": "default"}),
    "sgdm": (gap_hf.SGDM, {"momentum": [0.5, 0.9], "type": "switch_parameter_wise"}),
}


def trained(cls=gap_hf.GapAdamW, steps=5, **options):
    """Parameters and an optimizer that has stepped them."""
    ps = params()
    optimizer = cls([{"params": ps[:2]}, {"params": ps[2:]}], **options)
    for _ in random_gradients(ps, steps):
        optimizer.step()
    return ps, optimizer


def everything(ps, optimizer):
    """All that a failed load must leave alone, and how it is held."""
    state = {
        (i, key): (id(value), value.dtype, value.tolist())
        for i, p in enumerate(ps)
        for key, value in optimizer.state.get(p, {}).items()
    }
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    owned = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    return copy.deepcopy((state, groups, owned, [p.tolist() for p in ps], optimizer.steps_taken))


def first_group(key, value):
    return lambda saved: saved["param_groups"][0].__setitem__(key, value)


def first_state(key, value):
    return lambda saved: saved["state"][0].__setitem__(key, value)


ANY = {
    "no dictionary": lambda saved: [],
    "no groups": lambda saved: saved.pop("param_groups"),
    "no state": lambda saved: saved.pop("state"),
    "groups of another type": lambda saved: saved.update(param_groups="two"),
    "a group less": lambda saved: saved["param_groups"].pop(),
    "a group without parameters": lambda saved: saved["param_groups"][0].pop("params"),
    "a parameter less": lambda saved: saved["param_groups"][0]["params"].pop(),
    "a parameter twice": first_group("params", [0, 0]),
    "an unhashable parameter": first_group("params", [[0], 1]),
    "buffers of a stranger": lambda saved: saved["state"].update({7: saved["state"][0]}),
    "no type": lambda saved: saved["param_groups"][0].pop("type"),
    "an unknown type": first_group("type", "nope"),
    "an unhashable type": first_group("type", ["switch"]),
    "lr -1": first_group("lr", -1.0),
    "lr NaN": first_group("lr", float("nan")),
    "lr text": first_group("lr", "0.1"),
    "lr of two numbers": first_group("lr", torch.ones(2)),
    "decay -1": first_group("weight_decay", -1),
    "maximize 7": first_group("maximize", 7),
    "differentiable": first_group("differentiable", True),
    "another count": first_group("count", 3),
    "count text": first_group("count", "2"),
    "K 3": first_group("K", 3),
    "K text": first_group("K", "two"),
    "last_choice -1": first_group("last_choice", -1),
    "last_choice 10**6": first_group("last_choice", 10**6),
    "last_choice 7 for each": first_group("last_choice", [7, 7]),
    "last_choice text": first_group("last_choice", "0"),
    "last_choice None": first_group("last_choice", None),
    "negative_steps -1": first_group("negative_steps", -1),
    "negative_steps nested": first_group("negative_steps", [[], 0]),
    "negative_steps huge": first_group("negative_steps", 2**70),
    "step NaN": first_state("step", torch.tensor(float("nan"))),
    "step infinite": first_state("step", torch.tensor(float("inf"))),
    "step -3": first_state("step", torch.tensor(-3.0)),
    "step 1.5": first_state("step", 1.5),
    "step text": first_state("step", "5"),
    "steps": first_state("step", torch.ones(3)),
    "complex step": first_state("step", torch.tensor(1j)),
    "a meta step": first_state("step", torch.zeros((), device="meta")),
    "a sparse lr": first_group("lr", torch.ones(1).to_sparse()),
    "a meta lr": first_group("lr", torch.zeros((), device="meta")),
    "no step": lambda saved: saved["state"][0].pop("step"),
    "an unknown buffer": first_state("exp_avg_sq_9", torch.zeros(6, 5)),
    "a state of another type": lambda saved: saved["state"].update({0: [1]}),
    "no buffers at all": lambda saved: saved["state"].update({0: {"step": torch.tensor(3.0)}}),
}
ADAM = {
    "eps -1": first_group("eps", -1),
    "betas of one number": first_group("betas", 0.9),
    "betas out of range": first_group("betas", [(0.8, 0.999), (1.5, 0.999)]),
    "a candidate less": first_group("betas", [(0.8, 0.999)] * 3),
    "v < 0": lambda saved: saved["state"][0]["exp_avg_sq_0"].neg_(),
    "a moment less": lambda saved: saved["state"][0].pop("exp_avg_0"),
    "another shape": first_state("exp_avg_0", torch.zeros(5, 6)),
    "whole numbers": first_state("exp_avg_0", torch.zeros(6, 5, dtype=torch.int64)),
    "complex numbers": first_state("exp_avg_0", torch.zeros(6, 5, dtype=torch.complex64)),
    "a sparse moment": first_state("exp_avg_0", torch.zeros(6, 5).to_sparse()),
    "a meta moment": first_state("exp_avg_0", torch.zeros(6, 5, device="meta")),
    "a meta v": first_state("exp_avg_sq_0", torch.zeros(6, 5, device="meta")),
    "a nested moment": first_state("exp_avg_0", torch.nested.nested_tensor([torch.zeros(5)] * 6)),
    "a quantized moment": first_state("exp_avg_0", torch.quantize_per_tensor(torch.zeros(6, 5), 1.0, 0, torch.qint8)),
    "a list": first_state("exp_avg_0", [0.0]),
    "None": first_state("exp_avg_0", None),
}
SWITCH = {
    "J_bar too short": first_group("J_bar", [0.0]),
    "J_bar NaN": first_group("J_bar", [0.0, float("nan")]),
    "no J_bar": lambda saved: saved["param_groups"][0].pop("J_bar"),
}
BAD = [(name, damage, variant) for name, damage in ANY.items() for variant in VARIANTS if (name, variant) not in (
    # what says nothing wrong there
    ("last_choice 7 for each", "switch"),
)]  # fmt: skip
BAD += [(name, damage, variant) for name, damage in ADAM.items() for variant in VARIANTS if variant != "sgdm"]
BAD += [(name, damage, "switch") for name, damage in SWITCH.items()]


@pytest.mark.parametrize(("name", "damage", "variant"), BAD, ids=[f"{variant}-{name}" for name, _, variant in BAD])
def test_a_damaged_state_is_refused_and_changes_nothing(name, damage, variant):
    cls, options = VARIANTS[variant]
    _, source = trained(cls, **options)
    saved = copy.deepcopy(source.state_dict())
    replaced = damage(saved)
    ps, optimizer = trained(cls, steps=3, **options)
    before = everything(ps, optimizer)
    with pytest.raises(ValueError):  # noqa: PT011 (the message differs; below: that one is told what)
        optimizer.load_state_dict(replaced if name == "no dictionary" else saved)
    assert everything(ps, optimizer) == before
    for p in ps:
        p.grad = torch.ones_like(p)
    optimizer.step()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            first_group("type", "nope"),
            r"group 0 of the loaded state: type='nope' is unknown; expected one of 'default'",
        ),
        (first_group("last_choice", [7, 0]), r"group 0.*last_choice=\[7, 0\] is damaged; expected a list of 2.*0 to 1"),
        (
            first_state("step", torch.tensor(-3)),
            "step of parameter 0 of group 0 is -3; expected the number of its steps",
        ),
        (lambda saved: saved["state"][1].pop("exp_avg_1"), "parameter 1 of group 0.*lacks exp_avg_1, and has nothing"),
        (first_group("betas", [(0.5, 0.9)]), "1 candidates in betas, and 2 as their number"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(damage, says):
    _, source = trained()
    saved = copy.deepcopy(source.state_dict())
    damage(saved)
    with pytest.raises(ValueError, match=says):
        trained(steps=1)[1].load_state_dict(saved)


def test_another_optimizers_state_is_refused_with_the_way_out():
    """That of torch's Adam is converted: ``test_conversion.py``."""
    ps = params()
    other = torch.optim.RMSprop([{"params": ps[:2]}, {"params": ps[2:]}])
    with pytest.raises(ValueError, match=r"not saved by GapAdamW.*delete optimizer\.pt from the checkpoint"):
        trained()[1].load_state_dict(other.state_dict())


def test_a_parameter_without_buffers_among_others_is_told(caplog):
    """It may never have had a gradient; if it had, somebody should know."""
    _, source = trained()
    saved = copy.deepcopy(source.state_dict())
    del saved["state"][1]
    trained()[1].load_state_dict(saved)
    assert "the checkpoint has no buffers of 1 parameters (parameter 1 of group 0)" in caplog.text


@pytest.mark.parametrize("kernel", KERNELS)
def test_buffers_that_share_memory_are_given_their_own(kernel):
    """One tensor under two names, or one number for all elements: what a file may hold, no step can update."""
    _, source = trained()
    saved = copy.deepcopy(source.state_dict())
    first = saved["state"][0]
    first["exp_avg_1"] = first["exp_avg_0"]
    first["exp_avg_sq_0"] = torch.full((1, 1), 0.5).expand(6, 5)
    saved["state"][1]["exp_avg_0"] = torch.zeros(8)[::2]
    apart = copy.deepcopy(saved)
    apart["state"][0]["exp_avg_1"] = first["exp_avg_0"].clone()
    apart["state"][0]["exp_avg_sq_0"] = torch.full((6, 5), 0.5)
    apart["state"][1]["exp_avg_0"] = torch.zeros(4)
    ends = []
    for state_dict in (saved, apart):
        ps, optimizer = trained(steps=1, **KERNELS[kernel])
        optimizer.load_state_dict(state_dict)
        for _ in random_gradients(ps, 3):
            optimizer.step()
        ends.append(ps)
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


# ---------------------------------------------------------------- the count of steps
STEPS = [
    torch.tensor(100), torch.tensor(100, dtype=torch.int32), torch.tensor(100.0), torch.tensor(100.0).double(),
    torch.tensor(100.0).half(), torch.tensor([100.0]), 100, 100.0,
]  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{type(step).__name__}-{getattr(step, 'dtype', '')}")
def test_a_count_of_any_type_is_that_number(step, kernel):
    p = torch.ones(3, requires_grad=True)
    optimizer = gap_hf.GapAdamW([p], lr=0.01, weight_decay=0.0, betas=B, **KERNELS[kernel])
    p.grad = torch.ones(3)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["step"] = step
    optimizer.load_state_dict(saved)
    before = p.detach().clone()
    optimizer.step()
    assert optimizer.state[p]["step"].item() == 101
    assert optimizer.state[p]["step"].dtype == torch.float64
    v, m = 1 - 0.999**2, 1 - 0.8**2  # two gradients of 1
    moved = 0.01 * m / (1 - 0.8**101) / (v / (1 - 0.999**101)) ** 0.5
    torch.testing.assert_close(before - p.detach(), torch.full((3,), moved), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_go_on_past_what_float32_can_count(variant, kernel):
    cls, options = VARIANTS[variant]
    ps, optimizer = trained(cls, **options, **(KERNELS[kernel] if variant != "default" else {}))
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = 2**24 + 1
    optimizer.load_state_dict(saved)
    for _ in random_gradients(ps, 3):
        optimizer.step()
    again = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(again)
    assert all(optimizer.state[p]["step"].item() == 2**24 + 4 for p in ps)


# ---------------------------------------------------------------- hooks, and what older versions saved
def test_a_hook_may_convert_a_foreign_state():
    """Checked is what the hooks have made of it."""
    ps = params()
    adamw = torch.optim.AdamW(ps, betas=(0.8, 0.999))
    for _ in random_gradients(ps, 4):
        adamw.step()
    optimizer = gap_hf.GapAdamW(ps, betas=B)
    mine = copy.deepcopy(optimizer.state_dict())

    def convert(optimizer, state_dict):
        state = {
            i: {
                "step": s["step"],
                "exp_avg_0": s["exp_avg"],
                "exp_avg_1": s["exp_avg"],
                "exp_avg_sq_0": s["exp_avg_sq"],
            }
            for i, s in state_dict["state"].items()
        }
        return {"state": state, "param_groups": mine["param_groups"]}

    seen = []
    optimizer.register_load_state_dict_pre_hook(convert)
    optimizer.register_load_state_dict_post_hook(lambda optimizer: seen.append(optimizer.state[ps[0]]["step"].item()))
    optimizer.load_state_dict(adamw.state_dict())
    assert seen == [4]
    assert torch.equal(optimizer.state[ps[0]]["exp_avg_1"], adamw.state[ps[0]]["exp_avg"])


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_what_version_0_1_0_saved_goes_on_bit_for_bit(path):
    saved = torch.load(path, weights_only=True)
    options = dict(saved["options"])
    if path.stem.endswith("default"):
        options["type"] = "default"
    if isinstance(options.get("betas"), list) and isinstance(options["betas"][0], float):
        options["betas"] = tuple(options["betas"])
    ps, optimizer = build(getattr(gap_hf, saved["class"]), {**options, "foreach": False})
    for p, q in zip(ps, saved["parameters"], strict=True):
        p.data.copy_(q)
    optimizer.load_state_dict(saved["state_dict"])
    assert run(optimizer, ps, 20, seed=2) == saved["choices"]
    for p, q in zip(ps, saved["afterwards"], strict=True):
        if options.get("state_dtype") == "bfloat16":  # the noise has been another since 0.3.0
            torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-3)
        else:
            assert torch.equal(p, q)


# ---------------------------------------------------------------- what is not promised
def test_a_flipped_byte_is_found_by_the_zip_files_checksums(tmp_path):
    """torch.load does not look at them: ``python -m zipfile -t optimizer.pt`` does."""
    path = tmp_path / "optimizer.pt"
    ps, optimizer = trained()
    torch.save(optimizer.state_dict(), path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    data = bytearray(path.read_bytes())
    place = data.index(optimizer.state[ps[0]]["exp_avg_0"].numpy().tobytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    torch.load(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
