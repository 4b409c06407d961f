"""Short axis labels made from parameter names, in reading order."""

import re


def shorten(names: list[str]) -> list[str]:
    """Drop the dotted parts that all names have in the same place, counted from either end.

    ``base.model.layers.0.self_attn.q_proj.lora_A.default.weight`` becomes ``0.q_proj.lora_A``.
    A single name stays whole.
    """
    split = [name.split(".") for name in names]
    if len(names) < 2:
        return list(names)
    if len({len(parts) for parts in split}) == 1:
        kept = [i for i, column in enumerate(zip(*split, strict=True)) if len(set(column)) > 1]
        return [".".join(parts[i] for i in kept) or ".".join(parts) for parts in split]
    shortest = min(map(len, split)) - 1  # every name keeps a part
    head = next((i for i in range(shortest) if len({parts[i] for parts in split}) > 1), shortest)
    tail = next((i for i in range(shortest - head) if len({parts[-1 - i] for parts in split}) > 1), shortest - head)
    return [".".join(parts[head : len(parts) - tail]) for parts in split]


def reading_order(names: list[str]) -> list[int]:
    """Return indices that sort ``names`` with numbers by value, so that layer 2 comes before layer 10."""
    return sorted(
        range(len(names)),
        key=lambda i: [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in re.split(r"(\d+)", names[i])],
    )


def by_layer(short: list[str]) -> list[tuple[str, list[int]]]:
    """Join consecutive names into (layer, rows); a layer is the name up to its first number, else the whole name."""
    layers: list[tuple[str, list[int]]] = []
    for row, name in enumerate(short):
        match = re.match(r"(.*?\d+)(?=\.|$)", name)
        layer = match.group(1) if match else name
        if not layers or layer != layers[-1][0]:
            layers.append((layer, []))
        layers[-1][1].append(row)
    return layers


def rows_of_a_layer(names: list[str]) -> list[str]:
    """Say what the rows of every layer are, from above, for names in reading order; empty if the layers differ."""
    short = shorten(names)
    layers = [(layer, rows) for layer, rows in by_layer(short) if len(rows) > 1]
    inside = {tuple(short[row].removeprefix(layer).lstrip(".") for row in rows) for layer, rows in layers}
    return list(inside.pop()) if len(inside) == 1 else []


def axis_labels(names: list[str], most: int = 48) -> dict[int, str]:
    """Map rows to labels for names in reading order: all rows if that fits, else each layer's middle row.

    Labels are at least ``1/most`` of the rows apart; if two are closer, the larger layer's stays.
    """
    short = shorten(names)
    if len(names) <= most:
        return dict(enumerate(short))
    layers = by_layer(short)
    apart = len(names) / most
    labels: dict[int, str] = {}
    for layer, rows in sorted(layers, key=lambda one: -len(one[1])):  # the sort keeps the order of equal layers
        middle = rows[len(rows) // 2]
        if all(abs(middle - other) >= apart for other in labels):
            labels[middle] = f"layer {layer}" if layer.isdigit() else layer
    return dict(sorted(labels.items()))


def roles(names: list[str]) -> list[str]:
    """Return what each parameter is within its layer: its short name without the numbers.

    ``base.model.layers.0.self_attn.q_proj.lora_A.default.weight`` becomes ``self_attn.q_proj.lora_A``, for all layers.
    """
    short = shorten(names)
    return [".".join(part for part in name.split(".") if not part.isdecimal()) or name for name in short]
