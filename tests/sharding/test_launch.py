"""A launch that gave less than it was asked for is told."""

import torch

import gap_hf
from gap_hf.sharding.launch import lone_process


def gap_optimizer() -> gap_hf.Adam:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    return gap_hf.Adam([p], betas=[(0.5, 0.99), (0.9, 0.99)], type="switch")


def test_one_process_where_several_were_launched(caplog, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    gap_optimizer().step()
    assert "2 processes were launched, but they don't know of each other" in caplog.text


def test_a_lone_process_of_accelerate_launch(caplog, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert lone_process() is None
    monkeypatch.setenv("MASTER_PORT", "29500")
    gap_optimizer().step()
    assert "asked for several processes, but started only this one. Add --multi_gpu" in caplog.text
