"""The same run with its state in float32, bfloat16 and 8 bits, on a real pretrained model: losses and choices.

    PYTHONPATH=recipes OMP_NUM_THREADS=1 python -m evidence.states              # an hour
    PYTHONPATH=recipes python -m evidence.states --report                       # the table, from what has been run
    PYTHONPATH=recipes OMP_NUM_THREADS=1 python -m evidence.states --choices    # a quarter of an hour

The study is ``quickstart.py``; files and grids are those of ``evidence.real``. The last command runs each state once
more with each seed, at the learning rate that is best for float32, and counts the choices that equal float32's; those
for another candidate than the usual one once more by themselves, since they are few.
"""

import sys
from collections.abc import Iterator
from statistics import fmean

import numpy as np
from rich.progress import track

from gap_hf.choices import read_choices

from .families import interval, report
from .plan import best
from .real import REAL_STUDIES, RealStudy, Way, main, output_of, prepare
from .table import RESULTS, read

STATES = RESULTS.parent / "states"
STUDY = "real_lm"
SEEDS = range(5)
REFERENCE = "float32"


def contenders(study: RealStudy) -> dict[str, Way]:
    """A run for each ``state_dtype``, with the candidates that are recommended for the task."""
    betas = ":".join(f"{beta:g}" for beta in study.pick)
    return {
        state: Way("gap_adamw", f"betas={betas},state_dtype={state}", study.pick)
        for state in (REFERENCE, "bfloat16", "8bit")
    }


def choices(state: str, seed: int, k: int) -> np.ndarray:
    """Run the study, and return the choice for each parameter at each step, (steps, P)."""
    study = REAL_STUDIES[STUDY]
    with output_of(study, contenders(study)[state], seed, k) as folder:
        return np.array(read_choices(folder).choices)


def agreements() -> Iterator[str]:
    """The lines of a Markdown table: the shares of choices that equal float32's, with the same seed, in per cent."""
    known = list(read(STUDY, STATES).values())
    k = best([row for row in known if row.contender == REFERENCE], SEEDS)
    assert k is not None, "run the study first"
    prepare(REAL_STUDIES[STUDY])
    others = [state for state in contenders(REAL_STUDIES[STUDY]) if state != REFERENCE]
    shares: dict[str, list[tuple[float, float]]] = {state: [] for state in others}
    for seed in track(SEEDS, "seeds"):
        expected = choices(REFERENCE, seed, k)
        usual = np.bincount(expected.flat).argmax()
        for state in others:
            same = 100.0 * (choices(state, seed, k) == expected)
            shares[state].append((float(same.mean()), float(same[expected != usual].mean())))
    yield "| state | choices that equal float32's, % | of those for another candidate than the usual one, % |"
    yield "|---|---|---|"
    for state, found in shares.items():
        columns = [list(of) for of in zip(*found, strict=True)]
        cells = [f"{fmean(of):.1f}{interval(of)} ({', '.join(f'{x:.1f}' for x in of)})" for of in columns]
        yield f"| `{state}` | {' | '.join(cells)} |"


if __name__ == "__main__":
    if "--report" in sys.argv:
        print("\n".join(report(STATES, contenders, REFERENCE)))
    elif "--choices" in sys.argv:
        print("\n".join(agreements()))
    else:
        main(contenders, __doc__, STATES, [STUDY])
