"""Whole optimizers as candidates: their names and options, what they keep, and how they propose a step."""
