"""The training objective: labels of the clip, labels over time where they are marked, SpecAugment."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pentad.audio.dataset import AugmentConfig
from pentad.audio.frontends import FrontEnd
from pentad.core.processes import processes, together


def masked(features: Tensor, config: AugmentConfig) -> Tensor:
    """Return features (batch, frames, mel bins) with one random stripe of each kind set to the clip's mean.

    Park et al., SpecAugment, Interspeech 2019. Draws from torch's own generator, which a resumed training restores.
    """
    batch, frames, bins = features.shape
    mean = features.mean((1, 2), keepdim=True)
    for axis, size, most in ((1, frames, round(config.time_mask * frames)), (2, bins, config.frequency_mask)):
        most = min(most, size - 1)
        if most < 1:
            continue
        width = (torch.rand(batch, device=features.device) * (most + 1)).long()
        start = (torch.rand(batch, device=features.device) * (size - width + 1)).long()
        place = torch.arange(size, device=features.device)
        hidden = (place >= start[:, None]) & (place < (start + width)[:, None])
        features = torch.where(hidden[:, :, None] if axis == 1 else hidden[:, None], mean, features)
    return features


def sound_loss(
    network: nn.Module,
    front_end: FrontEnd,
    batch: Mapping[str, Tensor],
    augmentation: AugmentConfig,
    *,
    exclusive: bool,
    over_time: float,
) -> Tensor:
    """Return the scalar loss of a batch of `dataset.Clips`.

    Args:
        network: The model.
        front_end: Its features.
        batch: Joined samples.
        augmentation: For SpecAugment.
        exclusive: Cross-entropy on shares of classes, else a binary cross-entropy a class.
        over_time: Weight of the scores over time, for clips whose events are marked.
    """
    scores = network(masked(front_end(batch["wave"]), augmentation))
    if exclusive:
        loss = nn.functional.cross_entropy(scores.clip, batch["labels"])
    else:
        loss = nn.functional.binary_cross_entropy_with_logits(scores.clip, batch["labels"])
    if scores.frames is None or over_time == 0:
        return loss
    wanted = nn.functional.adaptive_avg_pool1d(batch["active"].transpose(1, 2), scores.frames.shape[1]).transpose(1, 2)
    each = nn.functional.binary_cross_entropy_with_logits(scores.frames, wanted, reduction="none").mean((1, 2))
    marked = batch["marked"]
    return loss + over_time * (each * marked).sum() * processes() / together(marked.sum()).clamp(min=1)
