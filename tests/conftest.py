"""The same everywhere: one thread (the models are too small for more), and the same examples of each property."""

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")
