"""First moments in 8 bits, in Triton: what ``arithmetic/eight_bit.py`` does, with floors as uint32."""

import triton
import triton.language as tl


@triton.jit
def floors(v: tl.tensor) -> tl.tensor:
    """Return the exponents of the floors for second moments ``v``, float32, without the candidate's own exponent."""
    return ((v.to(tl.uint32, bitcast=True) + (1 << 23)) >> 1) & 0x7F800000


@triton.jit
def lift(exponents: tl.tensor, j: tl.tensor) -> tl.tensor:
    """Return what is added to floors for candidate ``j``; ``exponents`` points to K float64."""
    return ((tl.load(exponents + j).to(tl.int32) + 63) << 23).to(tl.uint32, bitcast=True)


@triton.jit
def decode(code: tl.tensor, floor: tl.tensor) -> tl.tensor:
    """Return the moments, float32, that ``code``, uint8, stands for."""
    bits = code.to(tl.uint32)
    size = ((bits & 127) << 19) + floor
    m = size.to(tl.float32, bitcast=True) - floor.to(tl.float32, bitcast=True)
    return (m.to(tl.uint32, bitcast=True) | ((bits & 128) << 24)).to(tl.float32, bitcast=True)


@triton.jit
def encode(m: tl.tensor, floor: tl.tensor, noise: tl.tensor) -> tl.tensor:
    """Return the codes, uint8, of ``m``, float32, with 19 bits of noise, uint32."""
    bits = (tl.abs(m) + floor.to(tl.float32, bitcast=True)).to(tl.uint32, bitcast=True) + noise
    size = tl.minimum((bits - floor) >> 19, 127)
    return (size | ((m.to(tl.uint32, bitcast=True) >> 24) & 128)).to(tl.uint8)
