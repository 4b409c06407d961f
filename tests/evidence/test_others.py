"""The other optimizers: where they become torch's, and loops over single runs in float64 where they don't."""

from math import log, sqrt

import pytest
import torch
from evidence.batched.others import AdEMAMix, AggMo
from evidence.contenders import CONTENDERS
from torch.optim import AdamW, Optimizer

from .streams import STEPS, Stream


def run(contender, family, make, decay=0.01, **other):
    stream = Stream(contender, family, make, decay, **other)
    for _ in stream.steps():
        pass
    return stream


def test_ademamix_without_the_slow_average_is_adamw():
    make = lambda params, lr: AdamW(params, lr=lr, betas=(0.9, 0.999), weight_decay=0.01)
    run(lambda setting: AdEMAMix(setting, alpha=0.0), "adam", make).assert_same_weights()


def test_aggmo_with_one_buffer_is_sgd():
    make = lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9)
    run(lambda setting: AggMo(setting, (0.9,)), "sgdm", make, 0.0).assert_same_weights()


class Loop(Optimizer):
    """One run as a vector in float64; subclasses say how it moves."""

    def __init__(self, params, lr):
        super().__init__(params, {})
        self.lr, self.t, self.s = lr, 0, {}
        self.p = self.vector("data")
        self.start = self.p.clone()
        self.zero = torch.zeros_like(self.p)

    def vector(self, of):
        return torch.cat([getattr(p, of).double().flatten() for p in self.param_groups[0]["params"]])

    def step(self):
        self.t += 1
        self.p = self.move(self.p, self.vector("grad"), self.t)
        at = 0
        for p in self.param_groups[0]["params"]:
            p.data.copy_(self.p[at : at + p.numel()].view_as(p))
            at += p.numel()


class LionLoop(Loop):
    def move(self, p, g, t):
        m = self.s.get("m", self.zero)
        self.s["m"] = 0.99 * m + 0.01 * g
        return p - self.lr * ((0.9 * m + 0.1 * g).sign() + 0.1 * p)


class AdEMAMixLoop(Loop):
    def move(self, p, g, t):
        f = t / STEPS
        beta3 = min(0.9 ** (log(0.999) / ((1 - f) * log(0.999) + f * log(0.9))), 0.999)
        m1 = self.s["m1"] = 0.9 * self.s.get("m1", self.zero) + 0.1 * g
        m2 = self.s["m2"] = beta3 * self.s.get("m2", self.zero) + (1 - beta3) * g
        v = self.s["v"] = 0.999 * self.s.get("v", self.zero) + 0.001 * g**2
        step = (m1 / (1 - 0.9**t) + 5 * f * m2) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        return p - self.lr * (step + 0.01 * p)


class ScheduleFreeLoop(Loop):
    def move(self, y, g, t):
        x, z = self.s.get("x", self.start), self.s.get("z", self.start)
        v = self.s["v"] = 0.999 * self.s.get("v", self.zero) + 0.001 * g**2
        gamma = self.lr * sqrt(1 - 0.999**t) * min(1, t / (STEPS // 20))
        z = z - gamma * g / (v.sqrt() + 1e-8) - gamma * 0.01 * y
        total = self.s["total"] = self.s.get("total", 0) + gamma**2
        c = gamma**2 / total
        x = (1 - c) * x + c * z
        self.s.update(x=x, z=z)
        return 0.1 * z + 0.9 * x


class ProdigyLoop(Loop):
    def move(self, p, g, t):
        d, slow = self.s.get("d", 1e-6), sqrt(0.999)
        m = self.s["m"] = 0.9 * self.s.get("m", self.zero) + 0.1 * d * g
        v = self.s["v"] = 0.999 * self.s.get("v", self.zero) + 0.001 * d**2 * g**2
        r = self.s["r"] = slow * self.s.get("r", 0.0) + (1 - slow) * self.lr * d**2 * (g @ (self.start - p))
        s = self.s["s"] = slow * self.s.get("s", self.zero) + (1 - slow) * self.lr * d**2 * g
        self.s["d"] = max(d, float(r / s.abs().sum()))
        return p - self.lr * d * (m / (v.sqrt() + d * 1e-8) + 0.01 * p)


class AggMoLoop(Loop):
    def move(self, p, g, t):
        for beta in (0.0, 0.9, 0.99):
            v = self.s[beta] = beta * self.s.get(beta, self.zero) - g
            p = p + self.lr / 3 * v
        return p


@pytest.mark.parametrize(
    ("contender", "loop"),
    [
        ("ademamix", AdEMAMixLoop),
        ("schedule_free", ScheduleFreeLoop),
        ("prodigy", ProdigyLoop),
        ("aggmo", AggMoLoop),
    ],
)
def test_the_papers_equations(contender, loop):
    # Prodigy's first steps are so small that their sums are rounding errors in float32, in its own code as in ours
    other = {"lrs": [0.5, 1.0, 2.0], "dtype": torch.float64} if contender == "prodigy" else {}
    stream = run(contender, CONTENDERS[contender].families[0], loop, **other)
    stream.assert_same_weights()
    if contender == "schedule_free":
        for evaluated, twin in zip(stream.batched.final(stream.p), stream.twins, strict=True):
            torch.testing.assert_close(evaluated.double(), twin.s["x"], rtol=2e-4, atol=2e-5)
    if contender == "prodigy":
        assert all(twin.s["d"] > 1e-4 for twin in stream.twins), "the distance has been estimated"


def test_lion():
    """A sign near 0 may round either way, so the weights are compared by the step sizes that they are apart."""
    stream = run("lion", "adam", LionLoop)
    for mine, twin in zip(stream.p, stream.twins, strict=True):
        apart = (mine.double() - twin.p).abs() / twin.lr
        assert apart.median() < 1e-3
        assert (apart > 0.1).double().mean() < 0.05
