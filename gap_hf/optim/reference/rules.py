"""The reference of the rules, in Python's own numbers: the weight with which each candidate is applied."""

from math import sqrt
from typing import Any


def best(J: list[float]) -> int:
    """The candidate with the largest score: the lowest index within 1e-6 (relative) of it."""
    largest = max(J)
    return next(j for j, score in enumerate(J) if score >= largest - 1e-6 * abs(largest))


def one(j: int, K: int) -> list[float]:
    """All of the weight for candidate ``j``."""
    return [float(j == k) for k in range(K)]


def constant(decays: list[float], given: Any) -> list[float]:
    """The constant weights of a mix: the given ones, or sqrt(1 - decay^2), divided by their sum."""
    found = given if isinstance(given, (list, tuple)) else [sqrt(1 - decay**2) for decay in decays]
    return [weight / sum(found) for weight in found]


def by_score(J: list[float], decays: list[float]) -> list[float]:
    """Weights proportional to the positive scores; the constant ones if there are none."""
    positive = [max(score, 0.0) for score in J]
    return [score / sum(positive) for score in positive] if any(positive) else constant(decays, None)


def draw(draws: int, seed: int, number: int, K: int) -> int:
    """The candidate that is drawn for parameter ``number`` (0 for one choice for all) after ``draws`` others."""
    return lowbias32(lowbias32(draws + seed * 0x9E3779B9) ^ (number * 0x85EBCA6B & 0xFFFFFFFF)) % K


def lowbias32(x: int) -> int:
    """Chris Wellons' hash of 32 bits (public domain)."""
    x &= 0xFFFFFFFF
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def start(group: dict[str, Any], decays: list[float]) -> list[float]:
    """The weights before the first step that counts."""
    if group["type"].startswith("mix"):
        return constant(decays, group["weights"])
    return one(0, len(decays))


def decide(
    J: list[float], decays: list[float], memory: dict[str, Any], group: dict[str, Any], number: int
) -> list[float]:
    """Return the weights that follow from the scores ``J``, all of them finite."""
    rule, K = group["type"].removesuffix("_parameter_wise"), len(J)
    if rule == "switch":
        return one(best(J), K)
    if rule == "first":
        return one(0, K)
    if rule == "random":
        memory["draws"] = memory.get("draws", 0) + 1
        return one(draw(memory["draws"] - 1, group["seed"], number, K), K)
    return by_score(J, decays) if group["weights"] == "score" else constant(decays, group["weights"])
