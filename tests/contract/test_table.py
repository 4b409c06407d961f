"""What the documentation says about the checks, and that none is missing."""

from . import test_copies, test_groups, test_hooks, test_inputs, test_schedulers, test_state_dict, test_tensors
from . import test_training as last
from .checks import CHECKS
from .refusals import REFUSALS
from .table import PAGE, expected, section
from .torchs_tests import CHECKED, NOT_HERE
from .variants import VARIANTS

MODULES = (test_copies, test_groups, test_hooks, test_inputs, test_schedulers, test_state_dict, test_tensors, last)


def test_the_page_holds_the_tables():
    assert section(expected()) in PAGE.read_text(), "refresh them: python -m tests.contract --write"


def test_every_check_is_counted():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    tests = [name for module in MODULES for name in vars(module) if name.startswith("test_")]
    assert {f"test_{name}" for name in names} <= set(tests)


def test_every_refusal_is_met():
    """An entry without a check or a variant would be a false statement in the documentation."""
    variants = {check.name: check.variants for check in CHECKS}
    for entry in REFUSALS:
        assert any(entry.covers(variant) for variant in variants[entry.check]), entry


def test_every_one_of_torchs_tests_has_a_check():
    assert set(CHECKED.values()) <= {check.name for check in CHECKS}
    assert not set(CHECKED) & set(NOT_HERE)


def test_the_control_and_every_type_have_the_same_classes_and_kernels():
    rows = {}
    for variant in VARIANTS:
        rows.setdefault(variant.row, []).append((variant.family, variant.kernel))
    mix = rows.pop("mix")  # whose kernels do what those of the other types do
    assert set(rows) == {"torch", "default", "switch", "switch_parameter_wise"}
    assert all(found == rows["torch"] for found in rows.values())
    assert set(mix) == {(family, kernel) for family in ("adam", "sgd") for kernel in ("fused", "loop")}
