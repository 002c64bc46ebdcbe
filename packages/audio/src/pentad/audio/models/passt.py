"""PaSST, the Patchout faSt Spectrogram Transformer: Koutini et al., Interspeech 2022, arXiv 2110.05069.

Official code: kkoutini/PaSST (Apache-2.0). The blocks are AST's; what differs is here: one position vector a row and
one a column, and patchout. Deviations: an input longer than the positions is refused where the official code cuts it
in silence, and patchout draws from the columns that are there, where the official code can draw past them.
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
    one_channel,
    rename_blocks,
    sizes_of,
    truncated,
)
from pentad.core.bundle import PublishedModel
from pentad.core.checkpoint import load_strict
from pentad.core.errors import ModelError


@dataclass(frozen=True)
class PaSSTConfig:
    """What decides the network's tensors and its training; the defaults are the published AudioSet model's."""

    classes: int = 527
    """Logits."""
    mel_bins: int = 128
    """Height of the spectrogram."""
    frames: int = 998
    """Frames that the time positions were made for; shorter inputs use the first of them."""
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
    patchout_time: int = 0
    """Columns of patches left out of a training step; published: 40."""
    patchout_frequency: int = 0
    """Rows left out of a training step; published: 4."""
    patchout: int = 0
    """Single patches left out of a training step, after rows and columns."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", tuple(self.strides))
        check_sizes(self)
        if min(self.patchout_time, self.patchout_frequency, self.patchout) < 0:
            raise ModelError("PTD-702", "patchout counts are below 0", "give 0 or more")
        if max(self.strides) > self.patch:
            problem = (
                f"strides {self.strides} leave gaps between patches of {self.patch}, for which PaSST has no positions"
            )
            raise ModelError("PTD-702", problem, "give strides of at most the patch")

    @property
    def positions(self) -> tuple[int, int]:
        """Position vectors along frequency and time, by the official rule: length // stride, which may be one more."""
        counts = [length // stride for length, stride in zip((self.mel_bins, self.frames), self.strides, strict=True)]
        return counts[0], counts[1]


@dataclass(frozen=True)
class Kept:
    """Which patches stay in a training step; None keeps all. The same for every clip of the batch."""

    columns: Tensor | None = None
    """Ascending numbers of columns (time)."""
    rows: Tensor | None = None
    """Ascending numbers of rows (frequency)."""
    tokens: Tensor | None = None
    """Ascending numbers within the remaining grid, frequency-major."""


class Embeddings(nn.Module):
    """Patches with row and column positions, patchout, and the two special tokens in front.

    Parameters carry their official names.
    """

    def __init__(self, config: PaSSTConfig, projection: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.projection = projection
        rows, columns = config.positions
        self.cls_token = truncated(1, 1, config.dim)
        self.dist_token = truncated(1, 1, config.dim)
        self.new_pos_embed = truncated(1, 2, config.dim)
        self.freq_new_pos_embed = truncated(1, config.dim, rows, 1)
        self.time_new_pos_embed = truncated(1, config.dim, 1, columns)
        self.kept: Kept | None = None
        """Set to repeat a certain patchout; None draws one in training and keeps all otherwise."""

    def forward(self, features: Tensor) -> Tensor:
        """Return tokens (batch, 2 + patches, dim) of features (batch, frames, mel bins)."""
        patches = self.projection(features.transpose(1, 2)[:, None])  # (batch, dim, rows, columns)
        positions = self.time_new_pos_embed[..., self._columns(patches.shape[3])]
        patches = patches + positions + self.freq_new_pos_embed[:, :, : patches.shape[2]]
        kept = self.kept or (self._draw(patches.shape[2], patches.shape[3]) if self.training else Kept())
        if kept.columns is not None:
            patches = patches[..., kept.columns]
        if kept.rows is not None:
            patches = patches[:, :, kept.rows]
        tokens = patches.flatten(2).transpose(1, 2)
        if kept.tokens is not None:
            tokens = tokens[:, kept.tokens]
        special = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        return torch.cat([special.expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def _columns(self, count: int) -> slice:
        """The time vectors of an input: the first ones, or in training a random stretch of them."""
        room = self.time_new_pos_embed.shape[3] - count
        if room < 0:
            problem = f"{count} columns of patches for {count + room} time positions"
            raise ModelError("PTD-705", problem, "give windows of at most the configured frames")
        start = int(torch.randint(room + 1, ())) if self.training and room and self.kept is None else 0
        return slice(start, start + count)

    def _draw(self, rows: int, columns: int) -> Kept:
        config = self.config
        left_columns, left_rows = columns - config.patchout_time, rows - config.patchout_frequency
        if min(left_columns, left_rows) < 1 or left_columns * left_rows - config.patchout < 1:
            problem = f"patchout leaves none of {rows} x {columns} patches"
            raise ModelError(
                "PTD-706", problem, "lower patchout_time, patchout_frequency or patchout, or give more frames"
            )
        return Kept(
            _keep(columns, left_columns),
            _keep(rows, left_rows),
            _keep(left_columns * left_rows, left_columns * left_rows - config.patchout),
        )


def _keep(count: int, keep: int) -> Tensor | None:
    return torch.randperm(count)[:keep].sort().values if keep < count else None


class PaSST(PublishedModel):
    """Patchout faSt Spectrogram Transformer: AST's blocks, separate time and frequency positions, patchout."""

    def __init__(self, config: PaSSTConfig, attention: str = "sdpa") -> None:
        super().__init__(config)
        self.network = build_transformer(config, attention)
        body = self.network.audio_spectrogram_transformer
        self.embeddings = Embeddings(config, body.embeddings.patch_embeddings.projection)
        setattr(body, "embeddings", nn.Identity())  # noqa: B010 - its position rows would stay unused

    @property
    def longest(self) -> int:
        """Frames that an input may have at most."""
        return int(
            (self.config.positions[1] - 1) * self.config.strides[1] + self.config.patch + self.config.strides[1] - 1
        )

    def forward(self, features: Tensor) -> Scores:
        """Return logits and features, the mean of the two special tokens.

        Args:
            features: Normalised (batch, frames, mel bins), at most as many frames as there are positions for.

        Raises:
            ModelError: They are longer, or of other mel bins: nothing is cut in silence.
        """
        if features.shape[2] != self.config.mel_bins or features.shape[1] < self.config.patch:
            problem = f"this PaSST takes {self.config.mel_bins} mel bins and {self.config.patch} frames or more"
            raise ModelError("PTD-703", f"{problem}, not {tuple(features.shape[1:])}", "use the model's own front-end")
        pooled = self.network.audio_spectrogram_transformer(self.embeddings(features)).pooler_output
        return Scores(self.network.classifier(pooled), None, pooled)


def config_from_official(hyper: Mapping[str, Any]) -> PaSSTConfig:
    """Return the configuration that the official constructor's arguments describe."""
    mel_bins, frames = hyper.get("img_size", (hyper.get("input_fdim", 128), hyper.get("input_tdim", 998)))
    strides = hyper.get("stride", (hyper.get("fstride", 10), hyper.get("tstride", 10)))
    return PaSSTConfig(
        classes=int(hyper.get("num_classes", 527)),
        mel_bins=int(mel_bins),
        frames=int(frames),
        patch=int(hyper.get("patch_size", 16)),
        strides=(int(strides[0]), int(strides[1])),
        dim=int(hyper.get("embed_dim", 768)),
        depth=int(hyper.get("depth", 12)),
        heads=int(hyper.get("num_heads", 12)),
        patchout_time=int(hyper.get("s_patchout_t", 0)),
        patchout_frequency=int(hyper.get("s_patchout_f", 0)),
        patchout=int(hyper.get("u_patchout", 0)),
    )


def config_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what an official checkpoint's tensors say of the configuration; strides they do not."""
    plain = _without_wrapper(state)
    return {**sizes_of(plain, ""), "classes": int(plain["head.1.weight"].shape[0])}


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an official checkpoint's tensors under the names of `PaSST`."""
    body = "network.audio_spectrogram_transformer."
    return rename_blocks(
        _without_wrapper(state),
        [
            (r"^head_dist\.", None),
            (r"^patch_embed\.proj\.", "embeddings.projection."),
            (r"^(cls_token|dist_token|(freq_|time_)?new_pos_embed)$", r"embeddings.\1"),
            (r"^layers\.", f"{body}layers."),
            (r"^norm\.", f"{body}layernorm."),
            (r"^head\.0\.", "network.classifier.layernorm."),
            (r"^head\.1\.", "network.classifier.dense."),
        ],
    )


def _without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {name.removeprefix("module.").removeprefix("net."): tensor for name, tensor in state.items()}
    plain.pop("device_proxy", None)  # the inference package's dummy
    return plain


def adapt(state: Mapping[str, Tensor], config: PaSSTConfig) -> dict[str, Tensor]:
    """Return a distilled DeiT's tensors, under PaSST's official names, moved to the size of ``config``.

    The position grid is resized (bicubic); its mean over time gives the frequency vectors, its mean over frequency the
    time vectors. Heads are dropped.
    """
    plain = {name: tensor for name, tensor in _without_wrapper(state).items() if not name.startswith("head")}
    positions = plain.pop("pos_embed")
    edge = round((positions.shape[1] - 2) ** 0.5)
    image = positions[:, 2:].double().reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
    image = nn.functional.interpolate(image, config.positions, mode="bicubic", align_corners=False)
    weight = plain["patch_embed.proj.weight"]
    return {
        **plain,
        # The published loader sums in float32, whatever the model's precision.
        "patch_embed.proj.weight": one_channel(weight.float()).to(weight.dtype),
        "new_pos_embed": positions[:, :2],
        "freq_new_pos_embed": image.mean(3, keepdim=True).to(weight.dtype),
        "time_new_pos_embed": image.mean(2, keepdim=True).to(weight.dtype),
    }


def import_official(state: Mapping[str, Tensor], config: PaSSTConfig) -> PaSST:
    """Return a `PaSST` with an official checkpoint's weights.

    Raises:
        ModelError: They are not those of this configuration.
    """
    model = PaSST(config)
    load_strict(model, official_state(state))
    return model.eval()
