"""Damaged options, choices files and states: only the documented errors, and nothing changed by a load that fails.

    python -m tests.torture.fuzz --seed 0 --inputs 100000 --minutes 10

Every input is a valid one with small damage, made from the seed and its own number. A batch has a process of its own:
what ends the interpreter ends only that batch, and is told by its number, with which ``--only`` and ``--first`` try it
again.
"""

import json
import tempfile
import traceback
from pathlib import Path
from typing import Any

from . import fuzz_choices, fuzz_options, fuzz_states
from .launch import launched
from .progress import Part, parser

KINDS = {"options": fuzz_options, "choices": fuzz_choices, "states": fuzz_states}
BATCH = 5000
SECONDS_PER_BATCH = 300.0


def work(kind: str, seed: int, first: int, count: int, out: Path) -> None:
    """Try inputs ``first`` to ``first + count``, and write down what came of them."""
    attempt = KINDS[kind].prepare(seed, out)
    refused, lost = 0, []
    with (out / "current").open("w", buffering=1) as current:
        for n in range(first, first + count):
            current.seek(0)
            current.write(f"{n}\n")
            try:
                refused += not attempt(n)
            except Exception:  # whatever it is: it is the finding
                lost.append([n, traceback.format_exc(limit=-4)])
    (out / "result.json").write_text(json.dumps({"refused": refused, "lost": lost}))


def torture(kind: str, seed: int, first: int, inputs: int, part: Part, folder: Path) -> None:
    """All batches of one kind."""
    last = first + inputs
    while first < last and not part.time_is_up():
        count, out = min(BATCH, last - first), folder / f"{kind}-{first}"
        out.mkdir(parents=True)
        with launched(work, (kind, seed, first, count, out), 1, out, SECONDS_PER_BATCH) as launch:
            launch.wait(SECONDS_PER_BATCH)
            verdict = launch.verdict()
        if verdict:
            current = (out / "current").read_text().split() if (out / "current").exists() else []
            count = int(current[0]) - first + 1 if current else 0
            part.lose(f"{kind}, seed {seed}, input {first + count - 1}: {verdict}")
            if not count:
                return
        else:
            result: dict[str, Any] = json.loads((out / "result.json").read_text())
            for n, problem in result["lost"]:
                part.lose(f"{kind}, seed {seed}, input {n}: {problem}")
            part.figures[f"{kind} refused"] += result["refused"]
        part.done(count, **{kind: count})
        first += count


def main() -> None:
    arguments = parser("tests.torture.fuzz", "Damaged input.", minutes=10)
    arguments.add_argument("--inputs", type=int, default=100_000, help="of each kind")
    arguments.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    arguments.add_argument("--first", type=int, default=0, help="number of the first input")
    given = arguments.parse_args()
    part = Part("fuzz", "inputs", given.inputs * len(given.only), given.minutes)
    with tempfile.TemporaryDirectory() as temporary:
        for kind in given.only:
            torture(kind, given.seed, given.first, given.inputs, part, given.logs or Path(temporary))
    part.end()


if __name__ == "__main__":
    main()
