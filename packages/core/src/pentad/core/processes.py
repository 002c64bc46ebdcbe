"""Counts over all training processes, so that a mean over words, pixels or objects is the one that one process takes.

The trainer averages over processes. A loss that divides its sum by what counts in its own share of the batch would
weigh the shares alike, however much counts in each; with n processes it is n · sum / (count of all shares) instead:

    total * processes() / together(count)

In one process both change nothing, not even a bit.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, distributed


def processes() -> int:
    """Return how many processes train together, as torchrun tells each of them; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@torch.no_grad()
def together(count: Tensor) -> Tensor:
    """Return the sum of the processes' counts, to be called by all of them alike; the count itself in one process.

    Args:
        count: Whole numbers or weights, of one shape in all processes; no gradient goes through.
    """
    if processes() == 1:
        return count
    count = count.clone()
    distributed.all_reduce(count)
    return count
