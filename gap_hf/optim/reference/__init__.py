"""The reference implementations: each family as in the paper, one tensor at a time. They are slow and serve tests.

The buffers are updated by the same roundings as ``torch.optim``'s, so that low-precision state is the same; the scores
are computed in float64 throughout. Nothing here is shared with the rest of ``gap_hf.optim``: agreement is evidence.
"""
