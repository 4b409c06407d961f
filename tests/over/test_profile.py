"""What is found out about an optimizer by running it."""

import pytest
import torch

from gap_hf.optim.family import Grain
from gap_hf.optim.over.leaves import Unfit
from gap_hf.optim.over.profile import profile
from gap_hf.optim.over.propose import Given, propose
from gap_hf.optim.over.spec import Spec

HERE = "tests.over.optimizers."


@pytest.mark.parametrize(
    ("name", "options", "grain"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": True}, Grain.ELEMENT),
        ("adamw", {}, Grain.ELEMENT),
        ("adam", {"amsgrad": True}, Grain.ELEMENT),
        ("nadam", {}, Grain.ELEMENT),  # which keeps a product beside its moments
        ("adafactor", {}, Grain.PARAMETER),
        ("lion", {}, Grain.ELEMENT),
        ("ademamix", {}, Grain.ELEMENT),
        ("lamb", {}, Grain.PARAMETER),
        ("soap", {}, Grain.PARAMETER),  # some of what it keeps lies transposed
        ("swats", {}, Grain.PARAMETER),  # it keeps a product over whole parameters, and acts on it much later
        ("adagc", {}, Grain.MODEL),  # which clips by all gradients for a hundred steps
        ("prodigy", {}, Grain.MODEL),
        (HERE + "Plain", {}, Grain.ELEMENT),
        (HERE + "Nested", {}, Grain.ELEMENT),
        (HERE + "ByNorm", {}, Grain.PARAMETER),
        (HERE + "Norms", {}, Grain.PARAMETER),
        (HERE + "Transposed", {}, Grain.PARAMETER),
        (HERE + "Together", {}, Grain.MODEL),
        (HERE + "Shared", {}, Grain.MODEL),
    ],
)
def test_the_finest_cut(name, options, grain):
    assert profile(Spec(name, tuple(options.items()))).grain is grain


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lbfgs", "missing 1 required positional argument: 'closure'"),
        ("sam", "missing 1 required positional argument: 'base_optimizer'"),
        (HERE + "Drawing", "draws at random"),
        (HERE + "Hidden", "keeps something outside of its state"),
        (HERE + "OwnRate", "changes the learning rate"),
        (HERE + "Still", "leaves parameters where they are"),
        (HERE + "Growing", "changes its form from step to step"),
        (HERE + "Objects", "keeps how as a object"),
        (HERE + "TwoModes", "train() and eval()"),
    ],
)
def test_what_can_be_no_candidate(name, reason):
    with pytest.raises(Unfit) as error:
        profile(Spec(name))
    assert reason in str(error.value)


def test_whether_it_changes_gradients():
    assert profile(Spec(HERE + "Scribbling")).changes_gradients
    assert not profile(Spec("adamw")).changes_gradients


def test_what_it_keeps_is_counted():
    assert profile(Spec("adamw")).bytes == pytest.approx(8, abs=0.01)
    assert profile(Spec("lion")).bytes == pytest.approx(4, abs=0.01)
    assert profile(Spec("sgd")).bytes == 0


def test_torchs_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    profile.__wrapped__(Spec("sgd"))
    assert torch.equal(torch.rand(3), expected)


def test_a_proposal_leaves_everything_as_it_is_but_what_is_kept():
    start, grad = torch.ones(3), torch.tensor([1.0, -2.0, 3.0])
    kept = {"moments_0": torch.zeros(3), "moments_1": torch.zeros(3), "count": torch.zeros((), dtype=torch.float64)}
    given = Given(0.1, 0.1, [start], [grad], [kept], [True])
    for count in (1, 2):
        ((proposed,),) = propose(Spec(HERE + "Nested", (), 0.5), [given])
        given.fresh = [False]
        assert kept["count"].item() == count
    assert torch.equal(start, torch.ones(3))
    assert torch.equal(grad, torch.tensor([1.0, -2.0, 3.0]))
    assert torch.equal(kept["moments_0"], 0.75 * grad)
    torch.testing.assert_close(proposed, start - 0.05 * kept["moments_0"])
