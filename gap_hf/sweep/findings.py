"""What a sweep adds to the comparison of its runs."""

from ..report.page import Findings, Picture, Table
from .conclusion import conclude
from .outcome import Outcome
from .picture import learning_rate_figure
from .summary import edge_note, table


def findings(outcome: Outcome) -> Findings:
    """Return the conclusion, the table, and the losses over the learning rate if the sweep went over several."""
    figure = learning_rate_figure(outcome)
    pictures = {}
    if figure is not None:
        caption = "Means over the seeds; bars: standard deviations. What lies far above the rest is cut off."
        pictures["gap_sweep_lr"] = Picture("Loss against learning rate", figure, caption)
    caption = " ".join(filter(None, [legend(outcome), edge_note(outcome)]))
    return Findings([("conclusion", conclude(outcome))], pictures, [Table("Did it help?", *table(outcome), caption)])


def legend(outcome: Outcome) -> str:
    """Say what the columns of the table mean."""
    seeds = len(outcome.seeds)
    said = ["regret: the difference from the best fixed value."]
    if seeds > 1:
        said.append(
            f"Losses: mean and standard deviation over {seeds} seeds. Differences: mean over the same seeds, and its "
            "95 % interval."
        )
    if len(outcome.lrs) > 1:
        said.append(
            "Each row is at its own best learning rate; only the comparison with 0.9 is at the one that is best for "
            "0.9. The pictures below show the runs at these rates."
        )
    return " ".join(said)
