"""DeepSpeed's checkpoints of ZeRO 1 to 3: every rank's flat tensors, put together without its engine.

ZeRO 1 and 2 say which stretch of a rank's flat tensor is which parameter's. ZeRO 3 does not: there every parameter is
cut into equal pieces, one per rank, and a rank has its pieces of all parameters one after the other (see
``gap_hf/sharding/zero.py``). What is put together is compared with the model's weights where the checkpoint has them.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..optim.families import FAMILIES
from ..optim.work import Buffer
from .stored import State, Stored, Weights, check_groups, load

OPTIM = re.compile(r"(bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt$")
LATEST = "latest"


class Fragment(NamedTuple):
    """A stretch of a parameter on one rank: in which of its flat tensors, where in it, and where in the parameter."""

    rank: int
    flat: int
    start: int
    numel: int
    offset: int


class Flats:
    """The flat tensors of all ranks, and where the parameters are in them.

    Args:
        folder: the folder, for messages.
        ranks: what each rank saved of its optimizer.
        shapes: the shapes of the whole parameters, group by group, in DeepSpeed's order.

    Raises:
        ValueError: the fragments do not make the parameters.
    """

    def __init__(self, folder: Path, ranks: list[dict[str, Any]], shapes: list[dict[str, torch.Size]]) -> None:
        self.folder, self.stage = folder, int(ranks[0]["zero_stage"])
        self.shapes = {name: shape for group in shapes for name, shape in group.items()}
        three = self.stage == 3
        self.saved = [rank["optimizer_state_dict" if three else "base_optimizer_state"] for rank in ranks]
        self.masters = [rank["fp32_flat_groups" if three else "single_partition_of_fp32_groups"] for rank in ranks]
        if not three:
            found = in_stretches([rank["param_slice_mappings"] for rank in ranks])
        else:
            found = in_equal_pieces([[len(flat) for flat in rank] for rank in self.masters], self.shapes)
        self.fragments: dict[str, list[Fragment]] = {name: [] for name in self.shapes}
        for name, fragment in found:
            self.fragments[name].append(fragment)
        for name, shape in self.shapes.items():
            made = sum(fragment.numel for fragment in self.fragments[name])
            if made != shape.numel():
                raise ValueError(
                    f"{folder}: {name} has {shape.numel()} elements; its fragments on {len(ranks)} ranks make {made}"
                )

    def whole(self, name: str, held: list[list[Tensor]]) -> Tensor:
        """Put a parameter, or a buffer of its shape, together from all ranks' flat tensors."""
        found = torch.empty(self.shapes[name].numel(), dtype=held[0][0].dtype, device="cpu")
        for rank, flat, start, numel, offset in self.fragments[name]:
            found[offset : offset + numel] = held[rank][flat].flatten()[start : start + numel]
        return found.view(self.shapes[name])

    def buffers(self, name: str, group: dict[str, Any]) -> dict[str, Tensor]:
        """Put the state of a parameter together; nothing if it has none. Raises ValueError."""
        first = self.fragments[name][0]
        mine = self.saved[first.rank]["state"].get(first.flat)
        if not mine:
            return {}
        found = {"step": torch.as_tensor(mine["step"])}
        for buffer in buffers_of(group, set(mine) - {"step"}, self.folder):
            if buffer.shape is None:
                held = [[flat[buffer.name] for _, flat in sorted(rank["state"].items())] for rank in self.saved]
                found[buffer.name] = self.whole(name, held)
            else:
                found[buffer.name] = self.own_shape(buffer, name, first, mine[buffer.name])
        return found

    def own_shape(self, buffer: Buffer, name: str, first: Fragment, stored: Tensor) -> Tensor:
        """Find the buffer of a parameter, with a shape of its own, among those of all parameters in a flat tensor."""
        assert buffer.shape is not None
        there = sorted(
            (fragment.start, other)
            for other, found in self.fragments.items()
            for fragment in found
            if (fragment.rank, fragment.flat) == (first.rank, first.flat)
        )
        shapes = {other: buffer.shape(self.shapes[other]) for _, other in there}
        ends = dict(zip(shapes, accumulate(shape.numel() for shape in shapes.values()), strict=True))
        return stored.flatten()[ends[name] - shapes[name].numel() : ends[name]].view(shapes[name])


def is_deepspeed(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint of DeepSpeed, or the folder of one of its tags."""
    return (folder / LATEST).exists() or any(OPTIM.search(path.name) for path in folder.glob("*optim_states.pt"))


def read(folder: Path) -> Stored:
    """Read such a checkpoint.

    Args:
        folder: Trainer's checkpoint, or the folder ``global_stepN`` in it.

    Raises:
        ValueError: it is damaged or another optimizer's, or its fragments do not make the parameters.
    """
    if (folder / LATEST).exists():
        folder = folder / (folder / LATEST).read_text().strip()
    paths = {int(found[2]): path for path in folder.glob("*") if (found := OPTIM.search(path.name))}
    models = sorted(folder.glob("*model_states.pt"))
    if not paths or not models or sorted(paths) != list(range(len(paths))):
        raise ValueError(f"{folder} lacks files: it has the states of ranks {sorted(paths)} and {len(models)} models")
    try:
        with readable():
            model: Any = load(models[0])
            ranks = [load(paths[rank])["optimizer_state_dict"] for rank in sorted(paths)]
        if len(ranks) != model["dp_world_size"]:
            raise ValueError(f"{folder} has the states of {len(ranks)} ranks; {model['dp_world_size']} wrote it")
        shapes = [dict(group) for group in model["param_shapes"]]
        flats = Flats(folder, ranks, shapes)
        groups = check_groups(flats.saved[0]["param_groups"], folder)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not what DeepSpeed's ZeRO 1 to 3 save: {error!r}") from error

    def state() -> State:
        for group, own in zip(groups, shapes, strict=True):
            for name in own:
                if found := flats.buffers(name, group):
                    yield name, found

    def weights() -> Weights:
        module = model.get("module") or {}
        for name in flats.shapes:
            found = flats.whole(name, flats.masters)
            there = module.get(name)
            if there is not None and there.numel() and not torch.equal(there, found.to(there.dtype)):
                raise ValueError(
                    f"{folder}: {name} is not as in the model. With round_robin_gradients DeepSpeed writes down wrong "
                    'places; resume where this was written with optim_args="portable=true", and save again'
                )
            yield name, found
        for name in model.get("buffer_names") or ():
            yield name, module[name]

    named = [{**group, "params": list(own)} for group, own in zip(groups, shapes, strict=True)]
    return Stored(folder, f"DeepSpeed ZeRO {flats.stage}", len(ranks), named, state, weights)


def in_stretches(ranks: list[list[dict[str, Any]]]) -> Iterator[tuple[str, Fragment]]:
    """Yield what ZeRO 1 and 2 wrote down of each rank's flat tensors; the ranks follow one another in them."""
    ends: dict[str, int] = {}
    for rank, flats in enumerate(ranks):
        for i, found in enumerate(flats):
            for name, place in found.items():
                yield name, Fragment(rank, i, place.start, place.numel, ends.get(name, 0))
                ends[name] = ends.get(name, 0) + place.numel


def in_equal_pieces(lengths: list[list[int]], shapes: dict[str, torch.Size]) -> Iterator[tuple[str, Fragment]]:
    """Yield where ZeRO 3 puts the pieces of each parameter, by the lengths of each rank's flat tensors."""
    world = len(lengths)
    for rank, flats in enumerate(lengths):
        flat = start = 0
        for name, shape in shapes.items():
            piece = -(-shape.numel() // world)
            while flat < len(flats) - 1 and start + piece > flats[flat]:
                flat, start = flat + 1, 0
            numel = max(0, min(piece, shape.numel() - rank * piece))  # the rest of the last pieces is padding
            if numel:
                yield name, Fragment(rank, flat, start, numel, rank * piece)
            start += piece


def buffers_of(group: dict[str, Any], names: set[str], folder: Path) -> list[Buffer]:
    """Return the buffers of the family that has these for a group with such options. Raises ValueError."""
    for family in FAMILIES:
        try:
            found = list(family.buffers(group))
        except (KeyError, TypeError, ValueError):
            continue
        if {buffer.name for buffer in found} == names:
            return found
    raise ValueError(f"{folder} has the buffers {', '.join(sorted(names))}, which no optimizer of gap_hf keeps")


@contextmanager
def readable() -> Iterator[None]:
    """Let ``torch.load`` read the few classes of DeepSpeed that are in its files, and nothing else.

    Raises:
        ValueError: DeepSpeed is not installed.
    """
    try:
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address
    except ModuleNotFoundError as error:
        raise ValueError("to read DeepSpeed's files, install it: pip install deepspeed") from error
    with torch.serialization.safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]):
        yield
