"""The same everywhere: one thread (the models are too small for more), and the same examples of each property."""

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list) -> None:
    """The files that take longest come first, so that two workers end at about the same time."""
    items.sort(key=lambda item: not {"recipes", "trainer", "docs", "report"}.intersection(item.path.parts))
    items.sort(key=lambda item: not {"sharding", "torture"}.intersection(item.path.parts))
    items.sort(key=lambda item: item.path.parts[-2:] != ("sharding", "test_trainer.py"))
