"""Property tests: any shapes, missing gradients, frozen parameters, zero gradients; the twin agrees."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .twins import Twins

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=5)
beta1 = st.sampled_from([0.0, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99])
beta2 = st.sampled_from([0.5, 0.9, 0.99, 0.999])
types = st.sampled_from(["switch", "switch_parameter_wise"])
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


@st.composite
def runs(draw):
    family = draw(st.sampled_from(["adam", "sgdm"]))
    type_ = draw(types)
    options = {
        "type": type_,
        "lr": draw(st.sampled_from([0.0, 1e-3, 0.1])),
        "weight_decay": draw(st.sampled_from([0, 0.1])),
        "lr_modulation": draw(st.booleans()),
        "soft_reset": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "hysteresis_threshold": draw(st.integers(1, 3)),
        "J_ema": draw(st.sampled_from([0.0, 0.5])) if type_ == "switch" else 0.0,
    }
    if family == "adam":
        options["betas"] = draw(st.lists(st.tuples(beta1, beta2), min_size=1, max_size=4))
        options["decoupled_weight_decay"] = draw(st.booleans())
        options["second_order_momentum_reset_mode"] = draw(st.sampled_from(["none", "same", "square"]))
    else:
        options["momentum"] = draw(st.lists(beta1, min_size=1, max_size=4))
        options["dampening"] = draw(st.sampled_from([0, 0.2]))
    return family, options, draw(shapes), draw(dtypes), draw(st.integers(0, 2**16))


@settings(max_examples=120, deadline=None)
@given(runs(), st.data())
def test_any_run_agrees_with_the_twin(run, data):
    family, options, all_shapes, dtype, seed = run
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in all_shapes]
    frozen = [data.draw(st.booleans()) if i else False for i in range(len(params))]
    for p, f in zip(params, frozen, strict=True):
        p.requires_grad_(not f)
    twins = Twins(family, [{"params": params[:2]}, {"params": params[2:]}], **options)
    kinds = st.sampled_from(["none", "zero", "random", "random", "random"])
    for _ in range(12):
        for p, f in zip(params, frozen, strict=True):
            kind = "none" if f else data.draw(kinds)
            noise = torch.randn(p.shape, generator=generator).to(dtype)
            p.grad = {"none": None, "zero": torch.zeros_like(p), "random": noise}[kind]
        before = [p.detach().clone() for p in params]
        choices = [[g["last_choice"]] if isinstance(g["last_choice"], int) else list(g["last_choice"])
                   for g in twins.gap.param_groups]  # fmt: skip
        twins.step()
        for p, b in zip(params, before, strict=True):
            assert p.grad is not None or torch.equal(p, b)
        if options["type"] == "switch_parameter_wise":
            for group, old in zip(twins.gap.param_groups, choices, strict=True):
                kept = [
                    (p.grad is None, c, o) for p, c, o in zip(group["params"], group["last_choice"], old, strict=True)
                ]
                assert all(c == o for no_gradient, c, o in kept if no_gradient)
