"""The running of a sweep's members, one after another."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence

from ..report.run import STATE, find_state, read_state
from .errors import SweepError
from .members import DONE, Member

LOG = "sweep.log"


def run(members: Sequence[Member], begun: Callable[[Member], None], ended: Callable[[Member, bool], None]) -> None:
    """Run the members of a sweep one after another; those that an earlier sweep has finished are kept.

    Args:
        members: the runs that ``plan`` returned.
        begun: called with each run that starts.
        ended: called with each run that is there, and whether it ran now.

    Raises:
        SweepError: a directory holds something else, or a run failed; the finished ones are kept.
    """
    for member in members:
        check(member)
    for member in members:
        begun(member)
        finished = (member.directory / DONE).is_file()
        if not finished:
            start(member)
        ended(member, not finished)


def check(member: Member) -> None:
    """Raise SweepError unless the directory is this run's: nothing that something else wrote is overwritten."""
    marker = member.directory / DONE
    if marker.is_file():
        if json.loads(marker.read_text(encoding="utf-8"))["command"] != member.command:
            raise SweepError(f"{member.directory} is of a sweep with other flags; name another --out, or remove it")
    elif (member.directory / STATE).is_file() and not (member.directory / LOG).is_file():
        raise SweepError(f"{member.directory} holds a run that is not of a sweep; name another --out")


def start(member: Member) -> None:
    """Start one run, with its output in ``sweep.log``, wait for it, and mark it as finished.

    Raises:
        SweepError: the run failed, or left no ``trainer_state.json``.
    """
    member.directory.mkdir(parents=True, exist_ok=True)
    log, began = member.directory / LOG, time.monotonic()
    with log.open("wb") as stream:
        done = subprocess.run(member.command, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-15:])
        raise SweepError(f"{member.name} failed with status {done.returncode}; the end of {log}:\n{tail}")
    state = find_state(member.directory)
    if state is None or not read_state(state)[0]:
        raise SweepError(f"{member.directory} has no {STATE}; the script must call trainer.save_state() at its end")
    seconds = time.monotonic() - began
    (member.directory / DONE).write_text(json.dumps({"command": member.command, "seconds": seconds}), encoding="utf-8")
