"""Step times of Adams and Adai beside the published ones, in one process: python -m tests.scripts.published_speed

Needs the extra ``published``. Prints medians of the steps, which alternate, and of the ratios of pairs.
"""

import statistics
import warnings
from time import perf_counter

import torch

import gap_hf
from gap_hf.bench.workloads import find_workload


def main() -> None:
    """Step all of them in turn, on LoRA's tensors."""
    from adams import Adams_ZeRO
    from pytorch_optimizer import Adai

    pairs = {
        "Adams, adams-torch": (gap_hf.Adams, Adams_ZeRO),
        "Adai, pytorch_optimizer": (gap_hf.Adai, Adai),
    }
    for workload, rounds in (("vit", 15), ("llama", 5)):
        for name, classes in pairs.items():
            both = [
                cls(find_workload(workload).tensors(torch.device("cpu"), torch.float32), lr=1e-3) for cls in classes
            ]
            seconds: list[list[float]] = [[], []]
            for _ in range(rounds + 2):
                for optimizer, times in zip(both, seconds, strict=True):
                    start = perf_counter()
                    optimizer.step()
                    times.append(perf_counter() - start)
            mine, theirs = (times[2:] for times in seconds)
            ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
            milliseconds = [statistics.median(times) * 1e3 for times in (mine, theirs)]
            print(f"{workload}, {name}: {milliseconds[0]:.1f} ms, {milliseconds[1]:.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
