"""Count what the host does in a step on a few ranks and on 4,096; print it as JSON, a case per line.

Started as one process: python -m tests.sharding.run_many_ranks
"""

import json

import gap_hf

from ..calls import python_calls
from ..scripts.many_ranks import LAYOUTS, connected

WORLDS = (8, 4096)
PARAMETERS = (20, 200)


def main() -> None:
    """Count every layout, number of ranks and number of parameters, on the first rank and on one in the middle."""
    for world in WORLDS:
        for rank in (0, world // 2):
            with connected(rank, world) as network:
                for layout, make in LAYOUTS.items():
                    for P in PARAMETERS:
                        shapes = [(4096, 1024), (100, 1)] * (P // 2)
                        case = make(shapes, rank, world, gap_hf.GapAdamW)
                        with network.complete(shapes):
                            checking = python_calls(case.optimizer.layout)
                        case.new_gradients()
                        case.step()
                        case.new_gradients()
                        network.messages.clear()
                        counts = {"messages": network.messages, "calls": python_calls(case.step), "checking": checking}
                        print(json.dumps([[layout, world, rank, P], counts]))


if __name__ == "__main__":
    main()
