"""How many samples a step's gradient is the mean of, as far as the backend says so."""


def from_accelerate() -> int:
    """Return how many samples the gradient is the mean of, according to Accelerate's data loader and ``accumulate``.

    Raises:
        ValueError: that can't be known from them.
    """
    from accelerate.data_loader import DataLoaderShard
    from accelerate.state import GradientState

    state = GradientState() if GradientState._shared_state else None
    loader = state.active_dataloader if state is not None else None
    if state is None or loader is None:
        raise unknown("no data loader that accelerator.prepare returned is being iterated")
    if not isinstance(loader, DataLoaderShard) or not hasattr(loader.dataset, "__len__"):
        raise unknown("only a DataLoaderShard over a data set with a length says so")
    full = loader.total_batch_size
    if not full:
        raise unknown("the data loader has no batch size")
    sampler, steps = loader.batch_sampler, state.num_steps
    if not state.end_of_dataloader:
        return steps * full
    whole = loader.remainder <= 0 or (getattr(sampler, "even_batches", False) and sampler.num_processes > 1)
    last = full if whole else loader.remainder
    if state.sync_with_dataloader:
        steps = (len(loader) - loader.skip_batches - 1) % steps + 1
    elif steps > 1 and last != full:
        raise unknown("with sync_with_dataloader=False a smaller last batch may be anywhere among those accumulated")
    return (steps - 1) * full + last


def unknown(why: str) -> ValueError:
    """The error where Accelerate can't say it."""
    return ValueError(
        f"batch_size='accelerate', but {why}. Give the number itself: batch_size=64, or param_group['batch_size'] "
        "before each step"
    )
