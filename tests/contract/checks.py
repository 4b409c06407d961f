"""A check becomes a test over all variants."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from .refusals import refusal
from .steps import same
from .variants import VARIANTS, Variant, parameter


class Check(NamedTuple):
    """A check, and the variants it is for."""

    concern: str
    name: str
    variants: list[Variant]


CHECKS: list[Check] = []
"""Every check of the test modules that have been imported, in their order."""


Function = Callable[..., Any]


def check(where: Callable[[Variant], bool] = lambda variant: True) -> Callable[[Function], Function]:
    """Make ``function(variant, ...)`` a test over all variants, or over those that ``where`` accepts.

    The function may return tensors. With ``type='default'`` they must be those that torch's own class gives, bit for
    bit; with the other types they must be those of our loop, but for rounding. Where ``refusals`` says that a variant
    refuses what is checked, the function must raise that error.
    """
    chosen = [variant for variant in VARIANTS if where(variant)]

    def make(function: Function) -> Function:
        name = function.__name__.removeprefix("test_")
        CHECKS.append(Check(function.__module__.rpartition(".test_")[2], name, chosen))
        run = functools.cache(function)  # a variant's result is compared with up to three others'

        @functools.wraps(function)
        def test(variant: Variant, **given: Any) -> None:
            if refused := refusal(name, variant):
                with pytest.raises(refused.error, match=re.compile(refused.message, re.S)):
                    function(variant, **given)
                return
            result, partner = run(variant, **given), variant.partner()
            if result is not None and partner in chosen and not refusal(name, partner):
                same(result, run(partner, **given), exact=variant.row == "default")

        return pytest.mark.parametrize("variant", [parameter(v) for v in chosen])(test)

    return make
