"""Names of parameters, in one process; under the other layouts by ``tests/sharding/test_layouts.py``."""

import pytest
from torch import nn

import gap_hf
from gap_hf.choices.naming import parameter_names, plain_name


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("lin.weight", "lin.weight"),
        ("module.lin.weight", "lin.weight"),
        ("_fsdp_wrapped_module.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.q.weight", "layers.0.q.weight"),
        ("_orig_mod.encoder.module.weight", "encoder.module.weight"),
    ],
)
def test_names_without_wrappers(name, plain):
    assert plain_name(name) == plain


def test_names_group_by_group():
    model, other = nn.Linear(2, 1), nn.Parameter(nn.Linear(1, 1).weight)
    optimizer = gap_hf.GapAdamW([{"params": [model.bias, other]}, {"params": [model.weight]}])
    assert parameter_names(optimizer, model) == [["bias", "group0.parameter1"], ["weight"]], "not the model's"
