"""The doctor on fine-tuning frameworks."""

import importlib.metadata

import pytest

from gap_hf.doctor import hosts
from gap_hf.doctor.finding import State
from gap_hf.integrations import autoload


def found(monkeypatch, tmp_path, **installed: str) -> dict[str, tuple[State, str]]:
    """What is said if these are installed."""

    def version(name: str) -> str:
        if name.replace("-", "_") not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name.replace("-", "_")]

    monkeypatch.setattr(hosts.importlib.metadata, "version", version)
    monkeypatch.setattr(autoload, "place", lambda: tmp_path / autoload.FILE)
    return {finding.what: (finding.state, finding.text) for finding in hosts.hosts()}


def test_none_is_installed(monkeypatch, tmp_path):
    assert found(monkeypatch, tmp_path) == {}


def test_a_plugin(monkeypatch, tmp_path):
    said = found(monkeypatch, tmp_path, axolotl="0.19.0")
    assert said["axolotl 0.19.0"] == (State.GOOD, hosts.HOSTS[1].how)
    assert said[""][1].startswith("relora resets AdamW's state by name")
    assert said["gap-hf autoload"] == (State.NOTE, "off")


@pytest.mark.parametrize("on", [True, False])
def test_a_command_that_needs_autoload(monkeypatch, tmp_path, on):
    monkeypatch.setattr(autoload, "place", lambda: tmp_path / autoload.FILE)
    if on:
        autoload.turn_on()
    said = found(monkeypatch, tmp_path, trl="1.16.0")["trl 1.16.0"]
    how = "trl sft --optim gap_adamw"
    assert said == ((State.GOOD, how) if on else (State.NOTE, f"gap-hf autoload on, once; then {how}"))


def test_another_version_than_the_one_that_was_tried(monkeypatch, tmp_path):
    state, text = found(monkeypatch, tmp_path, ms_swift="9.9")["ms-swift 9.9"]
    assert state is State.NOTE
    assert text.endswith("(tried with 4.6.0)")
