r"""First moments in 8 bits: small floats, whose exponents are counted from that of the root of their second moment.

By the Cauchy-Schwarz inequality \(|m| \le b \sqrt v\), where \(b\) depends on the decay rates alone (``exponent``). So
the exponent of \(\sqrt v\) tells which numbers \(m\) can be, and no scale is needed that elements share: a code depends
on its own element only, and is the same however parameters are cut.

A code is a sign and 7 bits of the float32 \(|m| + f\), counted from those of the floor \(f = 2^d s\): 3 bits of its
exponent and 4 of its mantissa. The power of two \(s\) has \(s \le \sqrt v < 2s\), and \(d\) is the candidate's
exponent. So the steps between codes are f/16 for the smallest numbers, and 1/16 to 1/32 of \(|m| + f\) for all others.
Codes are rounded stochastically (``rounding.py``), since an average with a long memory moves by less than a step.
"""

import math

import torch
from torch import Tensor

from .rounding import Draw, noise_for

MANTISSA = 19
"""The bits of a float32's mantissa that a code lacks."""

HALF_A_STEP = 1 << 18
"""The noise that rounds to the nearest."""


def exponent(beta1: float, beta2: float) -> int | None:
    r"""Return d, so that the largest code is larger than any moment; None if there is none, as beta1^2 >= beta2.

    With \(m = (1-\beta_1) \sum \beta_1^k g_k\) and \(v = (1-\beta_2) \sum \beta_2^k g_k^2\),

    \[
    |m| = (1-\beta_1) \left|\sum (\beta_1^2/\beta_2)^{k/2} \beta_2^{k/2} g_k\right|
        \le \frac{1-\beta_1}{\sqrt{(1-\beta_2)(1-\beta_1^2/\beta_2)}} \sqrt v = b \sqrt v < 2 b s.
    \]
    """
    if beta1**2 >= beta2:
        return None
    b = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    return math.ceil(math.log2(2 * b / 240))  # the largest code is 247 f, and rounding may add a step


def floors(v: Tensor, exponent: int) -> Tensor:
    """Return the bits of the floors f, int32.

    Args:
        v: float32, the second moments.
        exponent: see ``exponent``.
    """
    return (v.view(torch.int32) + (1 << 23) >> 1 & 0x7F800000) + (63 + exponent << 23)


def encode(m: Tensor, floor: Tensor, noise: Tensor | int = HALF_A_STEP) -> Tensor:
    """Return the codes, uint8, of the moments ``m``; what is too large gets the largest.

    Args:
        m: float32.
        floor: int32, of their second moments: ``floors``.
        noise: in [0, 2^19), for stochastic rounding.
    """
    bits = (m.abs() + floor.view(torch.float32)).view(torch.int32) + noise
    size = (bits - floor >> MANTISSA).clamp(max=127)
    return (size | (m.view(torch.int32) >> 24 & 128)).to(torch.uint8)


def decode(code: Tensor, floor: Tensor) -> Tensor:
    """Return the moments, float32, that ``encode`` made ``code`` of; this is exact.

    Zero has its sign, so that ``encode`` makes the same code of it again: the noise depends on codes.

    Args:
        code: uint8.
        floor: int32, of the second moments as they were then. Where these are not finite, what is returned means
            nothing: no code stands for infinity or NaN.
    """
    bits = code.to(torch.int32)
    m = (((bits & 127) << MANTISSA) + floor).view(torch.float32) - floor.view(torch.float32)
    return torch.where(bits > 127, -m, m)


def noise(grad: Tensor, code: Tensor, draw: Draw) -> Tensor:
    """Return the noise for the moments that now have the codes ``code``; ``grad`` is float32."""
    return noise_for(grad, code.to(torch.int32), draw, MANTISSA)
