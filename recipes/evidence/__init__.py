"""Does choosing help? Many small runs at once, compared in pairs.

    make evidence          # all studies, hours; what is in docs/evidence/results is not run again
    make evidence-report   # the tables and the figures
    make evidence-quick    # a subset from scratch, ten minutes
    make evidence-real     # real models, through the recipes (``real.py``)
    make evidence-lightbench   # the tasks of another suite (``lightbench.py``)

The data come from packages (``data.py``). Models and optimizers are tensors with a leading dimension for the runs
(``models.py``, ``batched``). ``studies.py`` and ``contenders.py`` list what is compared.
"""
