"""8-bit state of versions before 0.3.0: in blocks with a scale each, in torchao's format (``torchao.optim``)."""

from torch import Tensor


def dequantized(tensor: Tensor) -> Tensor:
    """Return a tensor in torchao's format as float32, and any other as it is."""
    return tensor.dequantize() if type(tensor).__name__ == "OptimState8bit" else tensor
