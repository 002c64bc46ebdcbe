"""Embeddings in the shape of the HEAR benchmark (Turian et al., 2022): scenes and time stamps from waveforms."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from pentad.audio.predict import Tagger, load_tagger
from pentad.audio.windows import windows
from pentad.core.errors import UsageError

STAMP_WINDOW_S, STAMP_HOP_S = 1.0, 0.05


class Embedder(nn.Module):
    """A bundle as HEAR wants it: a module that states its rate and the widths of its embeddings."""

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.tagger = tagger
        self.sample_rate = tagger.settings.frontend.sample_rate
        width = len(self.embed(torch.zeros(1, tagger.settings.window))[0])
        self.scene_embedding_size = self.timestamp_embedding_size = width

    @torch.inference_mode()
    def embed(self, audio: Tensor) -> Tensor:
        """Return embeddings (batch, width) of waveforms (batch, samples) of at most a window; shorter are padded."""
        settings = self.tagger.settings
        features = self.tagger.front_end(audio.to(self.tagger.device))
        if settings.windows.short == "pad":
            features = self.tagger.front_end.pad(features, settings.frontend.frames(settings.window))
        embedding: Tensor = self.tagger.model(features).embedding
        return embedding.float()


def load_model(model_file_path: str = "", device: str = "auto") -> Embedder:
    """Return the embedder of a bundle.

    Raises:
        ModelError: There is no such bundle.
    """
    return Embedder(load_tagger(model_file_path, device))


def get_scene_embeddings(audio: Tensor, model: Embedder) -> Tensor:
    """Return one embedding (sounds, width) a sound: the mean over windows, whatever the length.

    Args:
        audio: Waveforms (sounds, samples) at ``model.sample_rate``.
        model: From `load_model`.

    Raises:
        UsageError: The waveforms have no two axes or no sample.
    """
    _check(audio)
    size, hop = model.tagger.settings.window, model.tagger.settings.hop
    starts = [window.start for window in windows([np.zeros(audio.shape[1], np.float32)], size, hop)]
    parts = [model.embed(audio[:, start : start + size]) for start in starts]
    return torch.stack(parts).mean(0)


def get_timestamp_embeddings(audio: Tensor, model: Embedder) -> tuple[Tensor, Tensor]:
    """Return embeddings (sounds, stamps, width) of a second each, every 50 ms, and their middles in milliseconds.

    Raises:
        UsageError: The waveforms have no two axes or no sample.
    """
    _check(audio)
    size = min(round(STAMP_WINDOW_S * model.sample_rate), model.tagger.settings.window)
    hop = round(STAMP_HOP_S * model.sample_rate)
    count = max(1, math.ceil(audio.shape[1] / hop))
    padded = nn.functional.pad(audio, (size // 2, size))
    parts = [model.embed(padded[:, number * hop : number * hop + size]) for number in range(count)]
    stamps = torch.arange(count, dtype=torch.float32) * STAMP_HOP_S * 1000
    return torch.stack(parts, dim=1), stamps.expand(len(audio), -1)


def _check(audio: Tensor) -> None:
    if audio.dim() != 2 or audio.shape[1] == 0:
        raise UsageError("PTD-743", f"waveforms of shape {tuple(audio.shape)}", "give (sounds, samples)")
