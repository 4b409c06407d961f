"""Small optimizers, each with one habit that matters to whoever makes it a candidate."""

import torch
from torch.optim import Optimizer


class Plain(Optimizer):
    """Gradient descent; the others change one thing about it."""

    def __init__(self, params, lr=1e-3, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(self.direction(group, p), alpha=-group["lr"])

    def direction(self, group, p):
        return p.grad


class ByNorm(Plain):
    """Looks at whole parameters."""

    def direction(self, group, p):
        return p.grad / (1e-8 + p.grad.norm())


class Norms(Plain):
    """Keeps a norm, on which it does not act yet."""

    def direction(self, group, p):
        self.state[p]["norm"] = p.grad.norm()
        return p.grad


class Together(Plain):
    """Looks at all parameters of a group."""

    def direction(self, group, p):
        return p.grad / (1e-8 + sum(q.grad.norm() for q in group["params"]))


class Shared(Plain):
    """Keeps a number that all parameters share, on which it does not act yet."""

    def direction(self, group, p):
        group["far"] = max(group.get("far", 0.0), float(p.abs().max()))
        return p.grad


class Drawing(Plain):
    """Adds noise."""

    def direction(self, group, p):
        return p.grad + torch.randn_like(p)


class Hidden(Plain):
    """Keeps its momentum where no checkpoint looks."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        self.buffers = {}

    def direction(self, group, p):
        return self.buffers.setdefault(p, torch.zeros_like(p)).mul_(0.9).add_(p.grad)


class Scribbling(Plain):
    """Writes into the gradient."""

    def direction(self, group, p):
        return p.grad.mul_(2)


class OwnRate(Plain):
    """Sets the learning rate by itself."""

    def direction(self, group, p):
        group["lr"] = group["lr"] * 0.99
        return p.grad


class Still(Plain):
    """Does nothing."""

    def direction(self, group, p):
        return torch.zeros_like(p)


class Growing(Plain):
    """Keeps more with every step."""

    def direction(self, group, p):
        self.state[p].setdefault("grads", []).append(p.grad.clone())
        return p.grad


class Objects(Plain):
    """Keeps what a checkpoint can't hold."""

    def direction(self, group, p):
        self.state[p]["how"] = object()
        return p.grad


class TwoModes(Plain):
    """Has weights for training and others for evaluation."""

    def train(self):
        return

    def eval(self):
        return


class Nested(Plain):
    """Keeps lists, numbers and texts."""

    def direction(self, group, p):
        state = self.state[p]
        if not state:
            state.update(moments=[torch.zeros_like(p), torch.zeros_like(p)], count=0, how="fast", nothing=None)
        state["count"] += 1
        for decay, moment in zip((0.5, 0.9), state["moments"], strict=True):
            moment.mul_(decay).add_(p.grad, alpha=1 - decay)
        return state["moments"][state["count"] % 2]


class Transposed(Plain):
    """Keeps a factor that does not lie in memory as it is read."""

    def direction(self, group, p):
        if p.ndim < 2:
            return p.grad
        state = self.state[p]
        product = p.grad @ p.grad.T
        state["factor"] = (0.9 * state["factor"] + product if state else product).T.contiguous().T
        return state["factor"] @ p.grad
