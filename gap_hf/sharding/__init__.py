"""How parameters lie over processes: one adapter per backend, whole fragments and a reduction for the optimizer."""
