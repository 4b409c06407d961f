"""Kernels: the ways of doing a family's arithmetic. torch.optim's flags choose between them (``pick.py``)."""
