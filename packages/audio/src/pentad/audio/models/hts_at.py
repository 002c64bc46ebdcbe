"""HTS-AT, the Hierarchical Token-Semantic Audio Transformer: Chen et al., ICASSP 2022, arXiv 2202.00874.

Official code: RetroCirce/HTS-Audio-Transformer (MIT). The stages are core's Swin blocks under the published names,
which cost less than those of the library's CLAP encoder (figures in the package's README). Deviations: longer input is
refused; with ``pooling`` "linear_softmax" the clip's score is that of Wang et al. (ICASSP 2019) instead of the mean of
the logits, which contradicts strong labels: a short event leaves most frames empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pentad.audio.models.pooling import pool
from pentad.audio.models.scores import Scores
from pentad.audio.models.stretching import stretched
from pentad.core.bundle import PublishedModel
from pentad.core.checkpoint import load_strict, rename
from pentad.core.errors import ModelError
from pentad.core.layers.window_attention import PatchEmbedding, SwinStage, drop_path_rates, initialise, swin_blocks

_PATCH = 4


@dataclass(frozen=True)
class HTSATConfig:
    """What decides the network's tensors and its training; the defaults are the published AudioSet model's."""

    classes: int = 527
    """Logits."""
    mel_bins: int = 64
    """Height of the spectrogram."""
    image: int = 256
    """Edge of the square image that the spectrogram is folded to: mel bins times a whole number of time groups."""
    dim: int = 96
    """Width of a token in the first stage; it doubles from stage to stage."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage."""
    heads: tuple[int, ...] = (4, 8, 16, 32)
    """Attention heads of each stage."""
    window: int = 8
    """Edge of an attention window, tokens."""
    drop_path: float = 0.1
    """Stochastic depth of the last block; it rises from 0 along the blocks."""
    repeat_short: bool = False
    """Repeat a short input as often as it fits before stretching it, as the official inference mode does."""
    pooling: Literal["mean", "linear_softmax"] = "mean"
    """From frames to clip: the published mean of logits, or probabilities weighted by themselves."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "heads", tuple(self.heads))
        last = _PATCH * 2 ** (len(self.depths) - 1)
        fits = min(self.classes, self.mel_bins, self.dim, *self.depths) > 0 and self.image % self.mel_bins == 0
        widths = [self.dim * 2**stage for stage in range(len(self.depths))]
        if (
            not fits
            or len(self.heads) != len(self.depths)
            or any(width % heads for width, heads in zip(widths, self.heads, strict=True))
            or self.mel_bins % last
            or self.image % last
        ):
            problem = f"no HTS-AT can be made of {self}"
            remedy = (
                f"make image a multiple of mel_bins, mel_bins one of {last}, and each stage's width one of its heads"
            )
            raise ModelError("PTD-707", problem, remedy)

    @property
    def groups(self) -> int:
        """Stretches of time that stand under one another in the image."""
        return self.image // self.mel_bins

    @property
    def frames(self) -> int:
        """Frames that any input is stretched to."""
        return self.image * self.groups

    @property
    def steps(self) -> int:
        """Steps of the frame-wise output."""
        return self.groups * self.image // self._reduction

    @property
    def rows(self) -> int:
        """Frequency rows of the last map."""
        return self.mel_bins // self._reduction

    @property
    def _reduction(self) -> int:
        """Pixels along each axis that one position of the last map stands for."""
        return _PATCH << (len(self.depths) - 1)


class HTSAT(PublishedModel):
    """Hierarchical Token-Semantic Audio Transformer: Swin stages on a folded spectrogram, scores over time."""

    def __init__(self, config: HTSATConfig) -> None:
        super().__init__(config)
        last = len(config.depths) - 1
        widths = [config.dim << stage for stage in range(last + 1)]
        rates = drop_path_rates(config.depths, config.drop_path)
        self.bn0 = nn.BatchNorm2d(config.mel_bins)
        self.patch_embed = PatchEmbedding(1, config.dim, _PATCH)
        self.layers = nn.ModuleList(
            SwinStage(
                swin_blocks(widths[stage], config.heads[stage], config.window, rates[stage]),
                widths[stage] if stage < last else 0,
            )
            for stage in range(last + 1)
        )
        self.norm = nn.LayerNorm(widths[last])
        self.tscam_conv = nn.Conv2d(widths[last], config.classes, (config.rows, 3), padding=(0, 1))
        self.apply(initialise)

    @property
    def longest(self) -> int:
        """Frames that an input may have at most."""
        return int(self.config.frames)

    def forward(self, features: Tensor) -> Scores:
        """Return clip and frame logits and the mean of the last map.

        Args:
            features: Log-mel (batch, frames, mel bins) in decibels, at most ``config.frames`` frames; fewer are
                stretched.

        Raises:
            ModelError: They are longer, or of other mel bins.
        """
        config = self.config
        if features.shape[2] != config.mel_bins or not 1 < features.shape[1] <= config.frames:
            problem = f"this HTS-AT takes 2 to {config.frames} frames of {config.mel_bins} mel bins"
            raise ModelError("PTD-703", f"{problem}, not {tuple(features.shape[1:])}", "window the recording")
        x = self.bn0(features.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)  # (batch, frames, mel bins)
        if config.repeat_short:
            x = x.repeat(1, config.frames // x.shape[1], 1)
        x = self.patch_embed(self._folded(stretched(x, config.frames))[:, None])  # (batch, rows, columns, dim)
        for stage in self.layers:
            x = stage(x)
        x = self._unfolded(self.norm(x))  # (batch, width, rows, steps)
        frames = self.tscam_conv(x).flatten(2).transpose(1, 2)  # (batch, steps, classes)
        return Scores(pool(frames, config.pooling), frames, x.mean((2, 3)))

    def _folded(self, x: Tensor) -> Tensor:
        """The image (batch, image, image) whose quarters, from top to bottom, are stretches of time."""
        config = self.config
        groups = x.reshape(-1, config.groups, config.image, config.mel_bins)
        return groups.transpose(2, 3).reshape(-1, config.image, config.image)

    def _unfolded(self, x: Tensor) -> Tensor:
        """The map (batch, width, frequency rows, time steps) of an image's (batch, rows, columns, width)."""
        groups = x.reshape(-1, self.config.groups, self.config.rows, *x.shape[2:])
        return groups.permute(0, 4, 2, 1, 3).flatten(3)


def config_from_official(hyper: Mapping[str, Any]) -> HTSATConfig:
    """Return the configuration that the official settings describe."""
    return HTSATConfig(
        classes=int(hyper.get("num_classes", 527)),
        mel_bins=int(hyper.get("mel_bins", 64)),
        image=int(hyper.get("spec_size", 256)),
        dim=int(hyper.get("embed_dim", 96)),
        depths=tuple(hyper.get("depths", (2, 2, 6, 2))),
        heads=tuple(hyper.get("num_heads", (4, 8, 16, 32))),
        window=int(hyper.get("attention_window", 8)),
        drop_path=float(hyper.get("drop_path", 0.1)),
        repeat_short=bool(hyper.get("infer_mode", False)),
    )


def config_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what an official checkpoint's tensors say of the configuration; heads follow from the bias tables."""
    plain = _without_wrapper(state)
    stages = 1 + max(int(name.split(".")[1]) for name in plain if name.startswith("layers."))
    blocks = [{name.split(".")[3] for name in plain if name.startswith(f"layers.{s}.blocks.")} for s in range(stages)]
    tables = [plain[f"layers.{s}.blocks.0.attn.relative_position_bias_table"] for s in range(stages)]
    return {
        "classes": int(plain["tscam_conv.weight"].shape[0]),
        "mel_bins": int(plain["bn0.weight"].shape[0]),
        "dim": int(plain["patch_embed.proj.weight"].shape[0]),
        "depths": tuple(len(names) for names in blocks),
        "heads": tuple(int(table.shape[1]) for table in tables),
    }


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an official checkpoint's tensors under our names, which are its own.

    Left out are the frozen spectrogram layers, the unused ``head``, and masks and indices, which follow from the sizes.
    """
    left_out = r"^(spectrogram_extractor|logmel_extractor|head)\.|(attn_mask|relative_position_index)$"
    return rename(_without_wrapper(state), [(left_out, None)])


def _without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("sed_model.").removeprefix("module."): tensor for name, tensor in state.items()}


def adapt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an ImageNet Swin's tensors (window 8) without its head: the first convolution is averaged over RGB."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    weight = kept["patch_embed.proj.weight"]
    return {**kept, "patch_embed.proj.weight": weight.mean(1, keepdim=True)}


def import_official(state: Mapping[str, Tensor], config: HTSATConfig) -> HTSAT:
    """Return an `HTSAT` with an official checkpoint's weights.

    Raises:
        ModelError: They are not those of this configuration.
    """
    model = HTSAT(config)
    load_strict(model, {"bn0.num_batches_tracked": torch.tensor(0), **official_state(state)})
    return model.eval()


def hold_frames(frames: Tensor, count: int) -> Tensor:
    """Return frame logits (batch, steps, classes) with each step held for ``count`` frames, as published."""
    return torch.repeat_interleave(frames, count, dim=1)
