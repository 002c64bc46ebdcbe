"""What a training minimises: cross-entropy with class weights, or the focal loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pentad.core.processes import processes, together
from pentad.nlp.dataset import IGNORED


def classification_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, focal: float = 0.0) -> Tensor:
    """Return the mean loss over all labels that count, in all training processes.

    With p the probability of the right class, the loss is -(1 - p)^focal · log p (Lin et al., 2017, equation 4), which
    for focal 0 is cross-entropy; class weights multiply it and divide the mean, as in torch's cross-entropy.

    Args:
        logits: ``(…, classes)``.
        labels: ``(…)``; -100 does not count.
        weights: Of each class.
        focal: The exponent; larger looks more at what is hard.
    """
    flat, wanted = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    counts = wanted != IGNORED
    share = torch.ones_like(wanted[counts], dtype=torch.float32) if weights is None else weights[wanted[counts]]
    if not focal:
        mean = functional.cross_entropy(flat, wanted, weight=weights, ignore_index=IGNORED)
        return mean * (processes() * share.sum() / together(share.sum())).to(mean)
    flat, wanted = flat[counts], wanted[counts]
    log_p = functional.log_softmax(flat, -1).gather(-1, wanted[:, None])[:, 0]
    return -(share * (1 - log_p.exp()) ** focal * log_p).sum() * processes() / together(share.sum())


def balanced_weights(labels: Sequence[int], classes: int) -> Tensor:
    """Return a weight for each class, the inverse of its frequency, with a mean of 1 over the labels."""
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    return torch.from_numpy(len(labels) / (classes * np.maximum(counts, 1))).float()
