"""The time of a step beside that of the published package: python -m tests.scripts.if_shampoo_speed

Both step the same shapes in one process, in turn; the ratio is the median of the pairs. Needs the extra ``published``.
"""

import statistics
import time

import torch
from sirfshampoo import SIRFShampoo

import gap_hf

WORKLOADS = {
    "48 LoRA tensors of ViT-B, rank 8": [(8, 768), (768, 8)] * 24,
    "4 matrices, 512 x 512": [(512, 512)] * 4,
    "4 convolutions, 64 x 64 x 3 x 3": [(64, 64, 3, 3)] * 4,
    "24 layers, 64 x 64, with biases": [(64, 64), (64,)] * 24,
}
STEPS, WARM_UP, BATCH = 20, 3, 16


def parameters(shapes: list[tuple[int, ...]]) -> torch.nn.ParameterList:
    generator = torch.Generator().manual_seed(0)
    made = torch.nn.ParameterList(torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes)
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator)
    return made


def main() -> None:
    torch.set_num_threads(1)
    print("| | sirfshampoo | gap_hf | ratio |\n|---|---|---|---|")
    for name, shapes in WORKLOADS.items():
        pair = SIRFShampoo(parameters(shapes), batch_size=BATCH), gap_hf.IFShampoo(parameters(shapes), batch_size=BATCH)
        seconds: list[list[float]] = [[], []]
        for step in range(WARM_UP + STEPS):
            for k in (0, 1) if step % 2 else (1, 0):
                start = time.perf_counter()
                pair[k].step()
                if step >= WARM_UP:
                    seconds[k].append(time.perf_counter() - start)
        ratio = statistics.median(mine / theirs for theirs, mine in zip(*seconds, strict=True))
        times = " | ".join(f"{1e3 * statistics.median(s):.1f} ms" for s in seconds)
        print(f"| {name} | {times} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
