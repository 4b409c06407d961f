"""Short names, reading order, and which rows get a label."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gap_hf.report.names import axis_labels, reading_order, rows_of_a_layer, shorten

from .runs import lora_names

PART = st.one_of(
    st.integers(0, 120).map(str), st.sampled_from(["layers", "layer1", "attn", "q_proj", "lora_A", "²", "1²"])
)
NAME = st.lists(PART, min_size=1, max_size=6).map(".".join)
NAMES = st.lists(NAME, min_size=1, max_size=120, unique=True)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (lora_names(2)[:2], ["lora_A", "lora_B"]),
        (lora_names(2)[::14], ["0", "1"]),
        (["model.norm.weight"], ["model.norm.weight"]),
        (["lm_head.weight", "model.layers.0.q.weight"], ["lm_head", "model.layers.0.q"]),
        (["a.b.weight", "a.b.c.weight"], ["weight", "c.weight"]),
        (["a", "a.b"], ["a", "a.b"]),
        (["w", "b"], ["w", "b"]),
        ([], []),
    ],
)
def test_shorten(names, short):
    assert shorten(names) == short


def test_shorten_drops_what_all_lora_names_share():
    assert shorten(lora_names(2))[:3] == [
        "0.self_attn.q_proj.lora_A",
        "0.self_attn.q_proj.lora_B",
        "0.self_attn.k_proj.lora_A",
    ]


@given(NAMES)
def test_shortened_names_still_tell_the_parameters_apart(names):
    short = shorten(names)
    assert len(set(short)) == len(names)
    for name, label in zip(names, short, strict=True):
        assert label
        rest = iter(name.split("."))
        assert all(part in rest for part in label.split(".")), "parts of the name, in their order"


@given(NAMES)
def test_reading_order_sorts_all_of_them(names):
    order = reading_order(names)
    assert sorted(order) == list(range(len(names)))
    ordered = [names[i] for i in order]
    assert reading_order(ordered) == list(range(len(names)))


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_numbers_are_read_by_value(numbers):
    names = [f"model.layers.{n}.weight" for n in numbers]
    assert [names[i] for i in reading_order(names)] == [f"model.layers.{n}.weight" for n in sorted(numbers)]


def test_layers_stay_together():
    names = lora_names(12)
    random.Random(0).shuffle(names)
    layers = [int(names[i].split(".")[4]) for i in reading_order(names)]
    assert layers == sorted(layers)


@given(NAMES, st.integers(1, 48))
def test_labels_keep_their_distance(names, most):
    names = [names[i] for i in reading_order(names)]
    labels = axis_labels(names, most)
    rows = list(labels)
    assert rows == sorted(rows)
    assert 1 <= len(rows) <= max(most + 1, 1)
    assert all(0 <= row < len(names) for row in rows)
    if len(names) <= most:
        assert list(labels.values()) == shorten(names)
    else:
        assert all(b - a >= len(names) / most for a, b in pairwise(rows))


def in_order(names: list[str]) -> list[str]:
    return [names[i] for i in reading_order(names)]


def test_one_label_per_layer():
    names = in_order(lora_names(32))
    labels = axis_labels(names)
    assert list(labels.values()) == [f"layer {n}" for n in range(32)]
    for row, label in labels.items():
        assert f".layers.{label.removeprefix('layer ')}." in names[row]


def test_single_rows_give_way_to_layers():
    names = in_order([*(f"model.{name}" for name in lora_names(32)), "lm_head.weight", "model.embed_tokens.weight"])
    assert [label.rpartition(".")[2] for label in axis_labels(names).values()] == [str(n) for n in range(32)]


def test_every_nth_of_very_many_layers():
    labels = list(axis_labels(in_order([f"layers.{n}.{m}" for n in range(100) for m in "abcde"])).values())
    assert labels == [f"layer {n}" for n in range(0, 100, 3)]


def test_rows_of_a_layer_are_named_once():
    names = [f"layers.{i}.attn.{m}.lora_{x}.weight" for i in range(3) for m in ("q", "v") for x in "AB"]
    assert rows_of_a_layer(names) == ["q.lora_A", "q.lora_B", "v.lora_A", "v.lora_B"]
    assert rows_of_a_layer(["embed.weight", *names]) == [f"attn.{m}.lora_{x}" for m in "qv" for x in "AB"]
    assert rows_of_a_layer(names[:-1]) == [], "the last layer differs"
    assert rows_of_a_layer(["a.weight", "b.weight"]) == []
