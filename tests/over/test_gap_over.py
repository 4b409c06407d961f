"""Whole optimizers as candidates, in one process."""

import io

import pytest
import torch

from gap_hf import GapOver
from gap_hf.optim.over.scores import size
from gap_hf.optim.over.spec import of_text
from gap_hf.optim.reference.over import ReferenceOver

FOUR = "adamw:lion/lr_scale/0.1:adabelief:ademamix"


def start() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((6, 4), (7,))]


def go_on(params, optimizer, first: int, last: int) -> None:
    """Take steps, at learning rates that change; a parameter has no gradient in every seventh."""
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(step / 10, 1 / (1 + step % 3))
        for i, p in enumerate(params):
            generator = torch.Generator().manual_seed(100 * step + i)
            p.grad = torch.randn(p.shape, generator=generator) if (step + i) % 7 else None
        optimizer.step()


def run(build, steps: int = 100):
    params = start()
    optimizer = build(params)
    go_on(params, optimizer, 0, steps)
    return params, optimizer


def same(some, others) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize(
    ("text", "cls", "options"),
    [
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.0}),
        ("adamw/weight_decay/0.1", torch.optim.AdamW, {"weight_decay": 0.1}),
        ("sgd/momentum/0.9/nesterov/true", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd", torch.optim.SGD, {}),
        ("nadam", torch.optim.NAdam, {}),
        ("adafactor", torch.optim.Adafactor, {"weight_decay": 0.0}),
        ("lion", "lion", {}),
        ("adabound", "adabound", {}),  # which keeps the first learning rate
        ("ademamix", "ademamix", {"weight_decay": 0.0}),
        ("soap", "soap", {"weight_decay": 0.0}),
        ("prodigy", "prodigy", {"weight_decay": 0.0}),
    ],
)
def test_one_candidate_is_that_optimizer(text, cls, options):
    """Bit for bit, over a hundred steps."""
    if isinstance(cls, str):
        cls = __import__("pytorch_optimizer").load_optimizer(cls)
    alone, _ = run(lambda params: cls(params, lr=1e-2, **options))
    mine, _ = run(lambda params: GapOver(params, text, lr=1e-2, type="default"))
    assert same(mine, alone)
    picked, optimizer = run(lambda params: GapOver(params, [text], lr=1e-2, type="switch"))
    assert same(picked, alone)
    assert optimizer.param_groups[0]["last_choice"] == 0


def test_without_a_type_one_candidate_is_applied_and_several_are_mixed():
    assert [GapOver(start(), text).param_groups[0]["type"] for text in ("adamw", "adamw:sgd")] == ["default", "mix"]
    params, _ = run(lambda params: GapOver(params, "adamw:sgd", lr=1e-2), 1)
    parts = [run(lambda params, text=text: GapOver(params, text, lr=1e-2), 1)[0] for text in ("adamw", "sgd")]
    for p, a, b in zip(params, *parts, strict=True):
        assert torch.allclose(p, (a + b) / 2, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["ademamix", "adabelief", "prodigy"])
def test_a_group_without_gradients_counts_its_steps(name):
    """As it does without GapOver: these count for the group, whether a parameter of it moves or not."""
    results = []
    cls = __import__("pytorch_optimizer").load_optimizer(name)
    for build in (lambda groups: cls(groups, lr=1e-2, weight_decay=0.0), lambda groups: GapOver(groups, name, lr=1e-2)):
        first, second = start()
        optimizer = build([{"params": [first]}, {"params": [second], "lr": 2e-2}])
        for step in range(12):
            generator = torch.Generator().manual_seed(step)
            first.grad = torch.randn(first.shape, generator=generator) if step % 5 else None
            second.grad = torch.randn(second.shape, generator=generator) if step % 7 > 2 else None
            optimizer.step()
        results.append((first, second))
    assert same(*results)


def test_weight_decay_is_decoupled_and_the_same_for_all():
    alone, _ = run(lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1))
    mine, _ = run(lambda params: GapOver(params, "adamw:adam", lr=1e-2, weight_decay=0.1))
    assert same(mine, alone)


@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise", "mix", "mix_parameter_wise"])
def test_two_equal_candidates_are_one(type_):
    alone, _ = run(lambda params: GapOver(params, "adamw", lr=1e-2, type="default"))
    weights = {"weights": "score"} if type_ == "mix_parameter_wise" else {}
    mine, _ = run(lambda params: GapOver(params, "adamw:adamw", lr=1e-2, type=type_, **weights))
    assert same(mine, alone)


@pytest.mark.parametrize("score", ["rms", "decrease", "next", "gap"])
def test_what_is_applied_is_what_was_proposed(score):
    """The choice is made by hand, from each candidate's own step."""
    params = start()
    mine = GapOver(params, FOUR, lr=1e-2, type="switch_parameter_wise", score=score)
    assert [candidate.label for candidate in mine.candidate_list(mine.param_groups[0])] == [
        "adamw", "lion", "adabelief", "ademamix",
    ]  # fmt: skip
    single = FOUR.split(":")
    shadows = [start() for _ in single]
    alone = [GapOver(own, text, lr=1e-2, type="default") for own, text in zip(shadows, single, strict=True)]
    seen, sizes = set(), [size(of_text(text)[0]).size * of_text(text)[0].lr_scale for text in single]
    last = [[torch.zeros_like(p) for _ in single] for p in params]
    for step in range(60):
        for i, p in enumerate(params):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i)) + 0.3 * p.detach()
        before = [p.detach().clone() for p in params]
        for own, optimizer in zip(shadows, alone, strict=True):
            for shadow, p, was in zip(own, params, before, strict=True):
                shadow.data.copy_(was)
                shadow.grad = p.grad.clone()
            optimizer.step()
        mine.step()
        chosen = mine.param_groups[0]["last_choice"]
        for i, p in enumerate(params):
            steps = [(before[i] - own[i].detach()).double() for own in shadows]
            aligned = [float((p.grad.double() * d).sum()) for d in steps]
            held_out = [float((p.grad.double() * d).sum()) for d in last[i]]
            J = {
                "rms": [a / float(d.norm()) for a, d in zip(aligned, steps, strict=True)],
                "decrease": aligned,
                "next": held_out,
                "gap": [a / unit for a, unit in zip(aligned, sizes, strict=True)],
            }[score]
            last[i] = steps
            assert J[chosen[i]] >= max(J) - 1e-6 * abs(max(J))  # a tie goes to the first
            assert torch.equal(p, shadows[chosen[i]][i])
            seen.add(chosen[i])
    assert len(seen) > 1


@pytest.mark.parametrize(("type_", "score"), [("switch", "rms"), ("switch_parameter_wise", "next"), ("mix", "rms")])
def test_a_resumed_run_is_the_same(type_, score):
    """Bit for bit, from a file that holds nothing but tensors and numbers."""
    text = FOUR + ":soap:prodigy"
    params, optimizer = run(lambda params: GapOver(params, text, lr=1e-2, type=type_, score=score), 40)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    others = [p.detach().clone().requires_grad_() for p in params]
    resumed = GapOver(others, text, lr=1e-2, type=type_, score=score)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    go_on(params, optimizer, 40, 80)
    go_on(others, resumed, 40, 80)
    assert same(others, params)


@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise", "mix"])
@pytest.mark.parametrize("score", ["rms", "decrease", "next", "gap"])
def test_choices_are_the_twins(score, type_):
    """The twin's optimizers live as long as the run, and it compares in float64."""
    text = "torch.optim.AdamW/weight_decay/0.1:torch.optim.NAdam:torch.optim.SGD/momentum/0.9/lr_scale/0.5"
    options = {"lr": 1e-2, "weight_decay": 0.05, "type": type_, "score": score}
    options |= {"weights": "score"} if type_ == "mix" else {}
    sizes = [size(spec) for spec in of_text(text)]
    params, twins = start(), start()
    mine, twin = GapOver(params, text, **options), ReferenceOver(twins, text, sizes=sizes, **options)
    seen = set()
    for step in range(60):
        for i, (p, q) in enumerate(zip(params, twins, strict=True)):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i)) + 0.3 * p.detach()
            q.grad = p.grad.clone()
        mine.step(), twin.step()
        chosen, expected = (optimizer.param_groups[0]["last_choice"] for optimizer in (mine, twin))
        assert chosen == expected, step
        assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-6) for p, q in zip(params, twins, strict=True))
        seen |= {*torch.tensor(chosen).flatten().tolist()}
    assert len(seen) > 1


@pytest.mark.parametrize("score", ["rms", "decrease", "next", "gap"])
def test_a_score_that_is_no_number_leaves_the_choice_and_an_empty_parameter_has_none(score):
    """SGD and AdamW grow with other powers of the gradient, so that its size enters the score of ``gap``."""
    p, empty = torch.ones(4, 3, requires_grad=True), torch.ones(0, 3, requires_grad=True)
    text = "sgd:adamw" if score in ("gap", "rms", "decrease") else "sgd:sgd/lr_scale/2"
    optimizer = GapOver([p, empty], text, lr=1e-2, type="switch", score=score)
    for step in range(4):
        p.grad, empty.grad = (torch.full_like(q, 1e-3 * (step + 1)) for q in (p, empty))
        optimizer.step()
        assert torch.isfinite(p).all()
    before = optimizer.param_groups[0]["last_choice"]
    assert before == {"rms": 0, "decrease": 1, "next": 1, "gap": before}[score]
    for choice in (0, 1):
        optimizer.param_groups[0]["last_choice"] = choice
        p.grad = torch.full_like(p, torch.nan)
        optimizer.step()
        assert optimizer.param_groups[0]["last_choice"] == choice


def test_flags_belong_to_candidates():
    alone, _ = run(lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.0, fused=True))
    mine, _ = run(lambda params: GapOver(params, "adamw/fused/true", lr=1e-2, type="default"))
    assert same(mine, alone)
    with pytest.raises(ValueError, match="for example candidates=adamw/fused/true"):
        GapOver(start(), "adamw", fused=True)


def test_groups_share_their_candidates():
    first, second = start()
    optimizer = GapOver([first], "adamw:lion")
    with pytest.raises(ValueError, match="all groups share their candidates; got 'adamw:lion' and 'sgd'"):
        optimizer.add_param_group({"params": [second], "candidates": "sgd"})
    optimizer.add_param_group({"params": [second], "lr": 0.1})
    assert optimizer.param_groups[1]["candidates"] == "adamw:lion"


def test_the_steps_proposed_last_are_kept_where_they_are_compared():
    tried = (({"type": "switch"}, True), ({}, False), ({"weights": "score"}, True))
    for options, kept in tried:
        params, optimizer = run(lambda params, options=options: GapOver(params, FOUR, **options), 2)
        assert ("last_step_3" in optimizer.state[params[0]]) == kept


def test_what_fails_is_named():
    with pytest.raises(ValueError, match="score='gap' measures .* soap does not work element by element"):
        GapOver(start(), "adamw:soap", score="gap")
    with pytest.raises(ValueError, match=r"sam can't be a candidate: .*base_optimizer"):
        GapOver(start(), "adamw:sam")
    with pytest.raises(RuntimeError, match="candidate muon: .* only supports 2D parameters"):
        run(lambda params: GapOver(params, "adamw:muon"), 1)
    optimizer = GapOver(start(), "adamw")
    damaged = optimizer.state_dict()
    damaged["param_groups"][0]["carried"] = {"3.step": 2}
    with pytest.raises(ValueError, match="carried=.* does not fit the candidates; expected a dictionary with begun"):
        optimizer.load_state_dict(damaged)
