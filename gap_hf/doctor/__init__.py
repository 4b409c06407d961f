"""``gap-hf doctor``: what works on this machine, and what a given accelerate config will do with GAP."""
