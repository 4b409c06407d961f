"""Does choosing help? Many small runs at once, compared in pairs.

    make evidence          # all studies, hours; what is in docs/evidence/results is not run again
    make evidence-report   # the tables and the figures
    make evidence-quick    # a subset from scratch, ten minutes

Data and models come from packages (``data.py``), models and optimizers are tensors with a leading dimension for the
runs (``models.py``, ``batched``), the studies and the contenders are listed in ``studies.py`` and ``contenders.py``.
"""
