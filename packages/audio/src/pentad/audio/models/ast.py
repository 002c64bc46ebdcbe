"""AST, the Audio Spectrogram Transformer: Gong, Chung, Glass, Interspeech 2021, arXiv 2104.01778.

Official code: YuanGongND/ast (BSD-3-Clause). The network is the library's, see `transformer`; what is ours is the
importer, the adaptation of pretrained weights to another size, and the refusal of inputs of another length, which the
library cuts or lets fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pentad.audio.models.scores import Scores
from pentad.audio.models.transformer import (
    build_transformer,
    check_sizes,
    grid,
    one_channel,
    rename_blocks,
    sizes_of,
    truncated,
)
from pentad.core.bundle import PublishedModel
from pentad.core.errors import ModelError

SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
"""Name to width and heads; the published models are base."""


@dataclass(frozen=True)
class ASTConfig:
    """What decides the network's tensors; the defaults are the published AudioSet model's."""

    classes: int = 527
    """Logits."""
    mel_bins: int = 128
    """Height of the spectrogram."""
    frames: int = 1024
    """Width of the spectrogram: every input has as many."""
    patch: int = 16
    """Edge of a square patch."""
    strides: tuple[int, int] = (10, 10)
    """From patch to patch along frequency and time."""
    dim: int = 768
    """Width of a token."""
    depth: int = 12
    """Blocks."""
    heads: int = 12
    """Attention heads."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", tuple(self.strides))
        check_sizes(self)


class AST(PublishedModel):
    """Audio Spectrogram Transformer: overlapping patches, two special tokens, one global attention."""

    def __init__(self, config: ASTConfig, attention: str = "sdpa") -> None:
        super().__init__(config)
        self.network = build_transformer(config, attention)
        embeddings = self.network.audio_spectrogram_transformer.embeddings
        for name in ("cls_token", "distillation_token", "position_embeddings"):
            setattr(embeddings, name, truncated(*getattr(embeddings, name).shape))

    @property
    def longest(self) -> int:
        """Frames that an input may have at most."""
        return int(self.config.frames)

    def forward(self, features: Tensor) -> Scores:
        """Return logits and the mean of the two special tokens.

        Args:
            features: Normalised (batch, frames, mel bins), exactly as many of both as configured.

        Raises:
            ModelError: They are of another size: nothing is cut or stretched in silence.
        """
        expected = (self.config.frames, self.config.mel_bins)
        if tuple(features.shape[1:]) != expected:
            problem = f"this AST takes {expected[0]} frames of {expected[1]} mel bins, not {tuple(features.shape[1:])}"
            raise ModelError("PTD-703", problem, "pad or window the recording, or adapt the model's positions")
        pooled = self.network.audio_spectrogram_transformer(features).pooler_output
        return Scores(self.network.classifier(pooled), None, pooled)


def config_from_official(hyper: Mapping[str, Any]) -> ASTConfig:
    """Return the configuration that the official constructor's arguments describe."""
    size = str(hyper.get("model_size", "base384")).rstrip("0123456789")
    dim, heads = SIZES.get(size, SIZES["base"])
    return ASTConfig(
        classes=int(hyper.get("label_dim", 527)),
        mel_bins=int(hyper.get("input_fdim", 128)),
        frames=int(hyper.get("input_tdim", 1024)),
        patch=int(hyper.get("patch_size", 16)),
        strides=(int(hyper.get("fstride", 10)), int(hyper.get("tstride", 10))),
        dim=int(hyper.get("embed_dim", dim)),
        depth=int(hyper.get("depth", 12)),
        heads=int(hyper.get("num_heads", heads)),
    )


def config_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what an official checkpoint's tensors say of the configuration; strides and input size they do not."""
    plain = _without_wrapper(state)
    return {**sizes_of(plain, "v."), "classes": int(plain["mlp_head.1.weight"].shape[0])}


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an official checkpoint's tensors under the names of `AST`."""
    body, embeddings = "network.audio_spectrogram_transformer.", "network.audio_spectrogram_transformer.embeddings."
    return rename_blocks(
        _without_wrapper(state),
        [
            (r"^v\.head(_dist)?\.", None),
            (r"^v\.cls_token$", f"{embeddings}cls_token"),
            (r"^v\.dist_token$", f"{embeddings}distillation_token"),
            (r"^v\.pos_embed$", f"{embeddings}position_embeddings"),
            (r"^v\.patch_embed\.proj\.", f"{embeddings}patch_embeddings.projection."),
            (r"^v\.layers\.", f"{body}layers."),
            (r"^v\.norm\.", f"{body}layernorm."),
            (r"^mlp_head\.0\.", "network.classifier.layernorm."),
            (r"^mlp_head\.1\.", "network.classifier.dense."),
        ],
    )


def _without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def adapt(state: Mapping[str, Tensor], config: ASTConfig, *, source: str, old_frames: int = 1024) -> dict[str, Tensor]:
    """Return pretrained tensors, under official names, moved to the size of ``config``.

    The position grid is changed one axis at a time, time first: fewer are cut out of the middle, more are stretched.

    Args:
        state: A distilled DeiT's tensors (``imagenet``: no prefix, a first convolution over RGB), or those of an
            official AudioSet model (``audioset``: prefix ``v.``).
        config: Of the model that takes them.
        source: ``imagenet`` or ``audioset``.
        old_frames: Frames that the AudioSet model was made for.

    Raises:
        ModelError: The source is neither, or its positions form no grid.
    """
    if source not in ("imagenet", "audioset"):
        raise ModelError("PTD-704", f"'{source}' is no source of pretrained weights", "give imagenet or audioset")
    plain = _without_wrapper(state)
    if source == "imagenet":
        plain = {f"v.{name}": tensor for name, tensor in plain.items() if not name.startswith("head")}
    positions = plain["v.pos_embed"]
    count = positions.shape[1] - 2
    if source == "imagenet":
        old = (round(count**0.5), round(count**0.5))
    else:
        columns = (old_frames - config.patch) // 10 + 1
        old = (count // columns, columns)
    if old[0] * old[1] != count:
        problem = f"{count} positions are no grid of {old[0]} x {old[1]}"
        raise ModelError("PTD-704", problem, "give the frames that the checkpoint was made for")
    adapted = dict(plain)
    adapted["v.pos_embed"] = _resized(positions, old, grid(config))
    if "v.patch_embed.proj.weight" in plain:
        adapted["v.patch_embed.proj.weight"] = one_channel(plain["v.patch_embed.proj.weight"])
    return adapted


def _resized(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position rows (1, 2 + f t, dim) of one grid as those of another."""
    dim = positions.shape[2]
    image = positions[:, 2:].double().reshape(1, *old, dim).permute(0, 3, 1, 2)
    for axis in (3, 2):  # time, then frequency
        have, want = image.shape[axis], new[axis - 2]
        if want <= have:
            image = image.narrow(axis, have // 2 - want // 2, want)
        else:
            size = [image.shape[2], image.shape[3]]
            size[axis - 2] = want
            image = nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)
    return torch.cat([positions[:, :2], image.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def import_official(state: Mapping[str, Tensor], config: ASTConfig) -> AST:
    """Return an `AST` with an official checkpoint's weights.

    Raises:
        ModelError: They are not those of this configuration.
    """
    from pentad.core.checkpoint import load_strict

    model = AST(config)
    load_strict(model, official_state(state))
    return model.eval()
