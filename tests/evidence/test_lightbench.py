"""What is ours of the LightBench study: CUDA that is the CPU, the file, and what is counted. Its tasks are its own."""

import pytest
import torch
from evidence.lightbench import CONTENDERS, FILE, Result, by_task, cpu_only, read, write


def result(contender: str, trial: int, solved: bool, task: str = "beale") -> Result:
    return Result(task, "trivial", contender, trial, 0.01, 0.9, 0.999, solved, 1.5)


def test_what_asks_for_cuda_gets_the_cpu():
    model = torch.nn.Linear(2, 2)
    with cpu_only():
        made = torch.zeros(2, device="cuda")
        placed = [made.cuda(), made.to(torch.device("cuda:0")), torch.randn((2,), device="cuda:1"), model.cuda().weight]
        torch.cuda.synchronize()
        with torch.cuda.device("cuda"):
            torch.cuda.empty_cache()
    assert {tensor.device.type for tensor in (made, *placed)} == {"cpu"}
    assert torch.cuda.synchronize.__module__ == "torch.cuda", "torch's own is back"


@pytest.mark.parametrize("name", CONTENDERS)
def test_contenders_take_what_is_drawn(name):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = CONTENDERS[name]([p], 0.25, 0.7, 0.97, eps=1e-8, weight_decay=0.0)
    (group,) = optimizer.param_groups
    pairs = group["betas"] if isinstance(group["betas"], list) else [group["betas"]]
    assert (group["lr"], {beta2 for _, beta2 in pairs}) == (0.25, {0.97})
    assert ([beta1 for beta1, _ in pairs] == [0.7]) == (name == "adamw")
    p.grad = torch.ones(3)
    optimizer.step()
    assert (p < 1).all()


def test_the_file_is_read_as_it_was_written(tmp_path):
    results = [result(name, trial, trial == 1) for name in CONTENDERS for trial in range(2)]
    write(tmp_path / FILE, results)
    assert sorted(read(tmp_path / FILE).values()) == sorted(results)
    assert read(tmp_path / "none.csv") == {}


def test_only_trials_that_all_contenders_have_are_counted(tmp_path):
    whole = [result(name, 0, name == "qhm") for name in CONTENDERS]
    write(tmp_path / FILE, [*whole, result("qhm", 1, True), result("adamw", 0, True, task="rosenbrock")])
    (found,) = by_task(tmp_path).items()
    assert found == (("beale", "trivial"), {name: [name == "qhm"] for name in CONTENDERS})
