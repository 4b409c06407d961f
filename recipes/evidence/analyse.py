"""The tables of the evidence, as Markdown: all contenders, all studies, all seeds.

    PYTHONPATH=recipes python -m evidence.analyse

Losses are held-out losses; ± is a paired 95 % t-interval over seeds, * marks one that excludes 0.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from . import correlations, lightbench
from .compare import Interval, Results, load, paired
from .contenders import CONTENDERS, REFERENCE
from .real import REAL_STUDIES
from .studies import STUDIES
from .table import RESULTS

TITLES = {
    **{name: study.title for name, study in STUDIES.items()},
    **{name: study.title for name, study in REAL_STUDIES.items()},
}
PICKS = ("pw_.5_.99", "pw_.8_.99", "switch_.5_.9_.99", "gap_small_batch")
RECOMMENDABLE = ("mix_.5_.9_.99", "qhm", "mix_.5_.9", "mix_score_.5_.9_.99", "mix_score_pw_.5_.9_.99", *PICKS)
QUESTIONS = (
    (
        "lora",
        "mix_score_pw_.5_.9_.99",
        "mix_.5_.9_.99",
        "mixing by scores for each parameter, against the constant mix",
    ),
    ("lora", "pw_.5_.99_corrected", "pw_.5_.99", "bias correction in the score"),
    ("lora", "pw_.8_.99_corrected", "pw_.8_.99", "bias correction in the score"),
    ("lora", "mix_score_.5_.9_.99_corrected", "mix_score_.5_.9_.99", "bias correction in the score"),
    ("lora", "mix_score_pw_.5_.9_.99_corrected", "mix_score_pw_.5_.9_.99", "bias correction in the score"),
    ("lm_300", "pw_.5_.99_corrected", "pw_.5_.99", "bias correction in the score"),
    ("lm_300", "mix_score_.5_.9_.99_corrected", "mix_score_.5_.9_.99", "bias correction in the score"),
    ("autoencoder", "mix_guard_.5_.9_.99", "mix_.5_.9_.99", "a guard against opposed gradients"),
    ("autoencoder", "qhm_guard", "qhm", "a guard against opposed gradients"),
    ("quadratic", "mix_guard_.5_.9_.99", "mix_.5_.9_.99", "a guard against opposed gradients"),
    ("quadratic", "qhm_guard", "qhm", "a guard against opposed gradients"),
    ("lm_300", "mix_.5_.9_.99", REFERENCE, "300 steps"),
    ("lm_1000", "mix_.5_.9_.99", REFERENCE, "1,000 steps"),
)
HEAD = """# All tables

Made by `make evidence-report` from the files in `results`, all contenders and all seeds. Losses are held-out
losses; ± is a paired 95 % t-interval over seeds, and a star marks one that excludes 0. An empty cell was not run.

Contenders: `fixed` is one beta1 (momentum), `qhm` the mix of 0 and 0.9 with weights 0.3 and 0.7, `mix` a constant mix
and `mix_score` one by scores, `switch` the pick for all parameters at once; with `pw`, each parameter has its own
choice or weights. `corrected` has bias correction in the scores, and `guard` shifts weight to the long memory while
successive gradients point against each other. Of the quadratic, the loss is its decimal logarithm.

"""
Cell = Callable[[Results, str], object | None]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def by_contender(all_: dict[str, Results], cell: Cell, contenders: Sequence[str] = tuple(CONTENDERS)) -> str:
    """Contenders down, studies across; without contenders that have nothing to show."""
    rows = []
    for name in contenders:
        cells = [cell(results, name) for results in all_.values()]
        if any(value is not None for value in cells):
            rows.append([f"`{name}`", *("" if value is None else value for value in cells)])
    return table(["contender", *(TITLES[study] for study in all_)], rows)


def best_rates(results: Results, contender: str) -> str | None:
    """The mean loss at the best learning rate, and that rate; with what is to be said against it."""
    if (best := results.best(contender)) is None:
        return None
    notes = (", edge" if best.edge else "") + (f", {best.diverged} diverged" if best.diverged else "")
    return f"{best.mean:.4f} (2^{best.k}{notes})"


def against_smallest(results: Results, contender: str, tuned: bool = False) -> Interval | None:
    """Against the smallest candidate as a fixed value; None for those without candidates to choose among."""
    candidates = CONTENDERS[contender].candidates
    if len(candidates) < 2:
        return None
    fixed = f"fixed_{min(candidates):g}"
    return results.at_tuned(contender, fixed) if tuned else results.against(contender, fixed)


def diverged_at_tuned(results: Results, contender: str) -> str | None:
    """How many runs ended no better than they started, at the learning rate tuned for 0.9."""
    tuned = results.best(REFERENCE)
    if tuned is None or contender not in results.rows or not CONTENDERS[contender].comparable:
        return None
    runs = results.rows[contender].get(tuned.k, {})
    count = sum(row.diverged for row in runs.values())
    return f"{count} of {len(runs)}" if count else None


def shares_by_rate(all_: dict[str, Results], contender: str) -> str:
    """The share of the smallest candidate: learning rates down, from the own best one, studies across."""
    rows = []
    for offset in range(-5, 6):
        cells = []
        for results in all_.values():
            best = results.best(contender)
            share = None if best is None else results.share(contender, best.k + offset)
            cells.append("" if share is None else f"{share:.3f}")
        if any(cells):
            rows.append([f"best x 2^{offset}" if offset else "**best**", *cells])
    return table([f"`{contender}`", *(TITLES[study] for study in all_)], rows)


def shares_at_best(results: Results, contender: str) -> str | None:
    """The share of each candidate at the best learning rate; under mixes the mean weights."""
    best = results.best(contender)
    if best is None or len(CONTENDERS[contender].candidates) < 2:
        return None
    runs = list(results.rows[contender][best.k].values())
    return " / ".join(f"{fmean(values):.2f}" for values in zip(*(row.weights for row in runs), strict=True))


def correlation_table(results: Path) -> str:
    """Mean cosines by study and contender."""
    rows = []
    measured = correlations.load(results)
    for study in STUDIES:
        for contender in correlations.CONTENDERS:
            some = [row for row in measured if (row.study, row.contender) == (study, contender)]
            if some:
                means = [fmean(values) for values in zip(*(row.cosines for row in some), strict=True)]
                rows.append([TITLES[study], f"`{contender}`", len(some), *(f"{mean:+.3f}" for mean in means)])
    return table(["study", "contender", "seeds", *(f"lag {lag}" for lag in correlations.LAGS)], rows)


def questions(all_: dict[str, Results]) -> str:
    """The open questions, as differences."""
    rows = []
    for study, contender, other, about in QUESTIONS:
        if study in all_ and (own := all_[study].against(contender, other)) is not None:
            tuned = all_[study].at_tuned(contender, other)
            rows.append([TITLES[study], about, f"`{contender}` - `{other}`", own, tuned or "", own.seeds])
    return table(["study", "question", "difference", "own best rates", "at 0.9's rate", "seeds"], rows)


def verdicts(all_: dict[str, Results]) -> str:
    """How many studies speak for each contender, and which against."""
    rows = []
    for name in RECOMMENDABLE:
        regrets = {study: value for study, results in all_.items() if (value := results.regret(name)) is not None}
        tuned = {study: value for study, results in all_.items() if (value := results.at_tuned(name)) is not None}
        if not regrets:
            continue
        good = [study for study, value in regrets.items() if not value.low > 0]
        better = [study for study, value in tuned.items() if value.high < 0]
        worse = [TITLES[study] for study, value in tuned.items() if value.low > 0]
        bad = [TITLES[study] for study, value in regrets.items() if value.low > 0]
        rows.append(
            [
                f"`{name}`",
                f"{len(good)} of {len(regrets)}",
                "; ".join(bad),
                f"{len(better)} of {len(tuned)}",
                "; ".join(worse),
            ]
        )
    header = [
        "contender",
        "regret not above 0",
        "above 0 in",
        "better than 0.9 at its rate",
        "worse than 0.9 at its rate in",
    ]
    return table(header, rows)


def solved(results: Path) -> str:
    """LightBench's tasks: how many each contender solves, and how often, against AdamW at the same draws."""
    trials = lightbench.by_task(results)
    shares = {
        name: {task: fmean(some[name]) for task, some in enumerate(trials.values())} for name in lightbench.CONTENDERS
    }
    rows = [
        [
            f"`{name}`",
            f"{sum(any(some[name]) for some in trials.values())} of {len(trials)}",
            f"{sum(sum(some[name]) for some in trials.values())} of {sum(len(some[name]) for some in trials.values())}",
            *(paired(shares[name], shares[other]) or "" for other in (lightbench.REFERENCE, lightbench.SEARCHED)),
        ]
        for name in lightbench.CONTENDERS
    ]
    header = [
        "contender",
        "tasks solved",
        "trials that solve one",
        "share, against AdamW",
        "against AdamW, beta1 drawn",
    ]
    return table(header, rows)


def report(results: Path) -> str:
    """All tables."""
    small, real = load(STUDIES, results), load(REAL_STUDIES, results)
    all_ = {**small, **real}
    seeds = ", ".join(
        f"{TITLES[study]}: {f'fixed {name[6:]}' if (name := some.best_fixed()) else 'none yet'}"
        for study, some in all_.items()
    )
    tables = [
        ("In short: small studies", verdicts(small)),
        *([("In short: real models", verdicts(real))] if real else []),
        (f"Regret against the best fixed beta1, own best rates ({seeds})", by_contender(all_, Results.regret)),
        ("Difference from 0.9, own best rates", by_contender(all_, lambda r, name: r.against(name, REFERENCE))),
        ("Difference from 0.9 at the rate tuned for it", by_contender(all_, Results.at_tuned)),
        ("Runs that diverged at that rate", by_contender(all_, diverged_at_tuned)),
        ("Difference from the smallest candidate fixed, own best rates", by_contender(all_, against_smallest)),
        (
            "Difference from the smallest candidate fixed, at the rate tuned for 0.9",
            by_contender(all_, lambda r, name: against_smallest(r, name, tuned=True)),
        ),
        ("Loss at the best rate", by_contender(all_, best_rates)),
        *((f"Share of the smallest candidate, `{name}`", shares_by_rate(all_, name)) for name in PICKS),
        ("Mean weight of each candidate at the best rate (of a pick: its share)", by_contender(all_, shares_at_best)),
        ("Cosine of gradients some steps apart", correlation_table(results)),
        ("Open questions", questions(all_)),
        *([("LightBench's tasks", solved(results))] if (results / lightbench.FILE).exists() else []),
    ]
    return "\n\n".join(f"## {title}\n\n{body}" for title, body in tables if body.count("\n") > 1)  # those with rows


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the directory of the files")
    parser.add_argument("--out", type=Path, help="a Markdown file for them, instead of the screen")
    args = parser.parse_args()
    if args.out is None:
        print(report(args.results))
        return
    args.out.write_text(HEAD + report(args.results) + "\n", encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
