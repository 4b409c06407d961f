import pytest

from gap_hf.sharding.backend import all_refusals
from gap_hf.sharding.refusal import Refusal, configured

NVME = Refusal(
    "`device: nvme`", "it is slow", "set `device: cpu`", in_config=lambda config: config.get("device") == "nvme"
)
ODD = Refusal("odd things", "they are odd", "use even ones", in_running=lambda thing: thing % 2)


def test_texts():
    assert NVME.name == "device: nvme"
    assert NVME.advice == "it is slow; set device: cpu"
    assert NVME.message() == "device: nvme: it is slow. Set device: cpu."
    assert ODD.message("3 was found") == "3 was found: they are odd. Use even ones."


def test_who_can_tell():
    assert ODD.is_running(3)
    assert not ODD.is_running(2)
    assert not ODD.is_configured({"device": "nvme"})
    assert not NVME.is_running("nvme")
    assert configured([NVME, ODD], {"device": "nvme"}) == [NVME]


def test_each_stands_once_and_is_told_by_somebody():
    found = [refusal for _, refusal in all_refusals()]
    assert len(found) > 25
    assert len({refusal.setting for refusal in found}) == len(found)
    for refusal in found:
        assert refusal.in_running or refusal.in_config, refusal.setting


@pytest.mark.parametrize("refusal", [refusal for _, refusal in all_refusals()], ids=lambda refusal: refusal.name)
def test_texts_fit_into_their_sentences(refusal):
    for clause in (refusal.why, refusal.instead):
        assert not clause.endswith(".")
        assert clause.count("`") % 2 == 0
        assert "|" not in clause
    assert refusal.instead[0].islower(), "an imperative"
