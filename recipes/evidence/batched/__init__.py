"""Optimizers for many runs at once: the weights of all runs are one tensor ``(R, N)``.

They are written from the papers' equations and share nothing with ``gap_hf.optim``; ``tests/evidence`` compares the
two, choice by choice and weight by weight.
"""
