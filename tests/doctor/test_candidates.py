"""The doctor on the candidates of gap_over."""

import importlib.metadata

import pytest

from gap_hf.doctor import candidates
from gap_hf.doctor.config import cuts, read
from gap_hf.doctor.finding import State
from gap_hf.doctor.options import judge

from ..tiny import ROOT


@pytest.mark.parametrize(
    ("version", "state", "said"),
    [
        ("4.1.0", State.GOOD, "was tried"),
        ("9.0.0", State.NOTE, "was tried with 4.1.0; each candidate is looked at anew when it is built"),
        (None, State.MISSING, "not installed; tried with 4.1.0"),
    ],
)
def test_what_was_tried(monkeypatch, version, state, said):
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(candidates.importlib.metadata, "version", installed)
    found = candidates.known()
    first = next(i for i, finding in enumerate(found) if finding.what.startswith("pytorch_optimizer"))
    assert (found[first].state, found[first].text) == (state, said)
    lines = [finding.text for finding in found[first + 1 : first + 5]]
    assert lines[0].startswith("elements: every layout: ADOPT, AdEMAMix")
    assert "AdaMuon/use_muon/True" in lines[1]
    assert lines[3].startswith("refused: GSAM")


@pytest.mark.parametrize("cut", [False, True])
def test_each_candidate_is_looked_at(cut):
    *_, adamw, adafactor = judge("gap_over", "candidates=adamw:adafactor", cut)
    assert (adamw.what, adamw.state) == ("adamw", State.GOOD)
    assert adamw.text == "works on elements: every layout; keeps 8 bytes for each element"
    assert adafactor.state is (State.BAD if cut else State.GOOD)
    assert adafactor.text.endswith("This launch cuts parameters into pieces") == cut


def test_without_candidates_an_example_is_given():
    (finding,) = judge("gap_over", None)
    assert finding.state is State.NOTE
    assert "candidates=adamw:lion" in finding.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ddp", False), ("fsdp1", True), ("fsdp2", True), ("zero0", False), ("zero2", True), ("zero3", True)],
)
def test_which_launches_cut_parameters(tmp_path, name, expected):
    text = (ROOT / f"recipes/configs/{name.replace('zero0', 'zero2')}.yaml").read_text()
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("zero_stage: 2", "zero_stage: 0") if name == "zero0" else text)
    assert cuts(read(path)) is expected
