"""From logits over time to logits of the clip."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

_EPS = 1e-6


def pool(frames: Tensor, kind: Literal["mean", "linear_softmax"]) -> Tensor:
    """Return clip logits (batch, classes) of frame logits (batch, steps, classes).

    ``mean`` averages logits. ``linear_softmax`` is Σp² / Σp of the probabilities (Wang et al., ICASSP 2019), given back
    as a logit: a frame counts by how sure it is, so a short event is not drowned by the silence about it.
    """
    if kind == "mean":
        return frames.mean(1)
    probability = frames.sigmoid()
    pooled = probability.square().sum(1) / probability.sum(1).clamp(min=_EPS)
    return torch.logit(pooled, eps=_EPS)
