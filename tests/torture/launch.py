"""Start a function on several real processes, kill them at will, and never let one outlive its time.

The processes are forked off a server that has imported torch, transformers and deepspeed already, so that a start costs
milliseconds and hundreds of them can be killed in a few minutes. They find each other as torchrun's workers do.
"""

import contextlib
import faulthandler
import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from ..tiny import ROOT

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.torture.preloaded"])


def enter(
    function: Callable[..., None], given: tuple[Any, ...], rank: int, world: int, port: int, log: Path, limit: float
) -> None:
    """What a new process does first: its place among the others, its log, and its end."""
    signal.alarm(math.ceil(limit))  # also without anybody left to end it
    os.chdir(ROOT)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    if world > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
    function(*given)
    # a process that leaves the group while another still uses it can abort that one
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()
        with contextlib.suppress(Exception):
            distributed.destroy_process_group()


class Launch:
    """``function(*given)`` on each of ``world`` processes.

    Args:
        function: of a module, so that another process finds it.
        given: its arguments; they must pickle.
        world: how many processes. Of more than one each has torchrun's environment variables.
        logs: directory of what each prints.
        limit: seconds after which a process ends by itself.
    """

    def __init__(
        self, function: Callable[..., None], given: tuple[Any, ...], world: int, logs: Path, limit: float
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if world > 1 else None
        self.logs = [logs / f"rank{rank}.log" for rank in range(world)]
        self.processes: list[BaseProcess] = []
        port = self.store.port if self.store is not None else 0
        for rank, log in enumerate(self.logs):
            start = (function, given, rank, world, port, log, limit)
            process = context.Process(target=enter, args=start, daemon=True)
            process.start()
            self.processes.append(process)

    def running(self) -> list[BaseProcess]:
        return [process for process in self.processes if process.is_alive()]

    def wait(self, seconds: float) -> bool:
        """Whether all have ended, well or not, within ``seconds``; one that fails ends the wait."""
        deadline = time.monotonic() + seconds
        while running := self.running():
            wait([process.sentinel for process in running], max(0.0, deadline - time.monotonic()))
            if any(process.exitcode for process in self.processes) or time.monotonic() >= deadline:
                break
        return not self.running()

    def kill(self, ranks: list[int]) -> None:
        """SIGKILL at this moment."""
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.processes[rank].pid, signal.SIGKILL)

    def end(self) -> None:
        """End what still runs as torchrun does when one of its workers has died."""
        for process in self.running():
            process.terminate()
        deadline = time.monotonic() + GRACE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self.running():
            process.kill()
            process.join()

    def verdict(self) -> str:
        """What is to be said of a launch whose time has come: what failed or hung; empty if all ended well."""
        if failure := self.failure():
            return failure
        if self.running():
            tails = "\n".join(log.read_text(errors="replace")[-1500:] for log in self.logs)
            return f"hung:\n{tails}"
        return ""

    def failure(self) -> str:
        """What a process that ended badly printed last; empty if none did."""
        for rank, (process, log) in enumerate(zip(self.processes, self.logs, strict=True)):
            if process.exitcode:
                return f"rank {rank} ended with {process.exitcode}:\n{log.read_text(errors='replace')[-4000:]}"
        return ""


@contextlib.contextmanager
def launched(
    function: Callable[..., None], given: tuple[Any, ...], world: int, logs: Path, limit: float
) -> Iterator[Launch]:
    """A ``Launch`` of which nothing is left behind."""
    launch = Launch(function, given, world, logs, limit)
    try:
        yield launch
    finally:
        launch.end()


class Notes:
    """What a launched function tells the one that started it, as lines of JSON in a file."""

    def __init__(self, out: Path) -> None:
        self.file = (out / "notes.jsonl").open("a", buffering=1)

    def write(self, **note: Any) -> None:
        self.file.write(json.dumps(note) + "\n")


def follow(launch: Launch, out: Path, patience: float) -> Iterator[dict[str, Any]]:
    """The notes of ``launch`` in ``out`` as they come, until it ends or is silent for ``patience`` seconds."""
    path, read, changed, running = out / "notes.jsonl", 0, time.monotonic(), True
    while running:
        running = not launch.wait(0.2) and not launch.failure() and time.monotonic() < changed + patience
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        for line in lines[read:]:
            changed = time.monotonic()
            yield json.loads(line)
        read = len(lines)


def run(function: Callable[..., None], given: tuple[Any, ...], world: int, logs: Path, seconds: float) -> str:
    """Launch and wait. Returns the launch's ``verdict``."""
    with launched(function, given, world, logs, seconds + 2 * GRACE) as launch:
        launch.wait(seconds)
        return launch.verdict()
