"""The names enter a framework's registry when that is imported, before or after the package."""

import subprocess
import sys

import pytest

from gap_hf.trainer.presets import PRESETS

PLUGIN = """
NAMES = {}
class OptimizerPlugin:
    def __init__(self, name): self.name = name
    def register(self): return lambda function: NAMES.setdefault(self.name, function)
"""
FAKE = {
    "plugins/trainer_plugins/optimizer.py": PLUGIN,
    "core/base_trainer.py": "class BaseTrainer: ...",
    "utils/callbacks.py": "class TrainerCallback: ...",
}
REGISTRY = "llamafactory.v1.plugins.trainer_plugins.optimizer"


@pytest.mark.parametrize("first", ["gap_hf", REGISTRY])
def test_the_names_enter_the_registry_once_both_are_imported(tmp_path, first):
    for name, text in FAKE.items():
        path = tmp_path / "llamafactory" / "v1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for package in list(path.parents)[: -len(tmp_path.parts)]:
            (package / "__init__.py").touch()  # an installed llamafactory would go before a namespace package
    program = f"import {first}, gap_hf, {REGISTRY} as registry; print(*registry.NAMES)"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.split() == list(PRESETS)


def test_a_framework_that_is_not_imported_stays_so():
    program = "import sys, gap_hf; print([name for name in sys.modules if name.startswith('llamafactory')])"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.strip() == "[]"
