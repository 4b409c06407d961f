"""The table of the other optimizers beside AdamW: each at its best learning rate, and paired by seed."""

from evidence.families import contenders, report
from evidence.real import REAL_STUDIES
from evidence.table import Row, add

import gap_hf
from gap_hf.trainer.presets import PRESETS


def row(contender: str, seed: int, k: int, loss: float) -> Row:
    return Row("real_lm", contender, seed, 2.0**k, loss, loss, 9.0, False, [1.0], [1.0])


def test_each_is_shown_at_its_best_learning_rate_and_paired(tmp_path):
    rows = [row("adamw", seed, k, 3 + seed + abs(k + 9)) for seed in (0, 1) for k in (-10, -9, -8)]
    rows += [row("adams", seed, k, 2 + seed + 0.1 * seed + abs(k + 8)) for seed in (0, 1) for k in (-9, -8, -7)]
    add("real_lm", rows, tmp_path)
    table = list(report(tmp_path))
    assert table[0].startswith("LoRA on SmolLM2-135M, 2 seeds; ")
    assert "| `adamw` | 2^-9 | 2^-10, 2^-8 | 3.500 |  |" in table
    assert "| `adams` | 2^-8 | 2^-9, 2^-7 | 2.550 | -0.950 ± 0.635 |" in table
    assert len([line for line in table if line.startswith("| `")]) == 2, "what has not been run has no line"


def test_all_classes_are_there():
    study = REAL_STUDIES["real_lm"]
    tried = {PRESETS[way.optim].optimizer.family.name for way in contenders(study).values() if way.optim in PRESETS}
    own = {gap_hf.Adam.family.name, gap_hf.SGDM.family.name, gap_hf.GapOver.family.name}
    assert tried == {preset.optimizer.family.name for preset in PRESETS.values()} - own
