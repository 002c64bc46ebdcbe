"""What every audio model returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Scores(NamedTuple):
    """Logits and embedding of a batch of windows."""

    clip: Tensor
    """Logits of the whole window (batch, classes)."""
    frames: Tensor | None
    """Logits over time (batch, steps, classes), equal steps over the window; None where the model has no such head."""
    embedding: Tensor
    """What the clip's logits are computed from (batch, width)."""
