"""The doctor looks at a name and its options with the optimizer's own declarations."""

import pytest

import gap_hf
from gap_hf.doctor.finding import State
from gap_hf.doctor.options import judge


def texts(findings):
    return {finding.what: (finding.state, finding.text) for finding in findings}


def test_every_option_is_listed_with_its_value():
    found = texts(judge("gap_adamw", "betas=0.5:0.9,soft_reset=0.3"))
    assert found["optim"] == (State.GOOD, "gap_adamw: GapAdamW")
    assert found["betas=[(0.5, 0.999), (0.9, 0.999)]"][0] is State.GOOD
    assert "in a row against the gradient" in found["soft_reset=0.3"][1]
    assert len(found) == len(gap_hf.GapAdamW.options) - 2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("adamw_torch", None, "'adamw_torch' is no gap optimizer; expected one of gap_adamw, "),
        ("gap_adamw", "betta=0.9", "did you mean 'betas'?"),
        ("gap_sgdm", "momentum=1.5", "momentum=[1.5] is malformed or out of range"),
    ],
)
def test_what_is_wrong(name, text, words):
    (finding,) = judge(name, text)
    assert finding.state is State.BAD
    assert words in finding.text


def test_8bit_state():
    assert judge("gap_adamw", "state_dtype=8bit", cut=True)[-1].state is State.GOOD
    (finding,) = judge("gap_sgdm", "state_dtype=8bit")
    assert finding.state is State.BAD
    assert "is for Adam and AdamW" in finding.text
