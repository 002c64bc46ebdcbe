"""HTS-AT, the Hierarchical Token-Semantic Audio Transformer: Chen et al., ICASSP 2022, arXiv 2202.00874.

Official code: RetroCirce/HTS-Audio-Transformer (MIT). From the batch norm to the unfolded map the network is the
library's CLAP encoder; what is ours is the token-semantic head with its frame-wise output, stochastic depth on both
branches as published (the library has it on one), the importer, and the refusal of longer input. Deviation: with
``pooling`` "linear_softmax" the clip's score is that of Wang et al. (ICASSP 2019) instead of the mean of the logits,
which contradicts strong labels: a short event leaves most frames empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import ClapAudioConfig
from transformers.models.clap.modeling_clap import ClapAudioEncoder, ClapAudioLayer

from pentad.audio.models.pooling import pool
from pentad.audio.models.scores import Scores
from pentad.core.bundle import PublishedModel
from pentad.core.checkpoint import load_strict, rename
from pentad.core.errors import ModelError

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


class _Encoder(ClapAudioEncoder):
    """The library's encoder; time is stretched in float64, for in float32 its coordinates cost 2e-4 of the spread."""

    def reshape_mel2img(self, features: Tensor) -> Tensor:
        """Return the image (batch, 1, image, image) of features (batch, 1, frames, mel bins)."""
        batch, _, frames, bins = features.shape
        width = self.spec_size * self.freq_ratio
        if frames < width:
            stretched = nn.functional.interpolate(features.double(), (width, bins), mode="bicubic", align_corners=True)
            features = stretched.to(features.dtype)
        groups = features.reshape(batch, self.freq_ratio, self.spec_size, bins).transpose(2, 3)
        return groups.reshape(batch, 1, self.spec_size, self.spec_size)


class HTSAT(PublishedModel):
    """Hierarchical Token-Semantic Audio Transformer: Swin stages on a folded spectrogram, scores over time."""

    def __init__(self, config: HTSATConfig) -> None:
        super().__init__(config)
        self.encoder = _Encoder(_library_config(config))  # type: ignore[no-untyped-call]
        width = config.dim * 2 ** (len(config.depths) - 1)
        self.tscam_conv = nn.Conv2d(width, config.classes, (config.rows, 3), padding=(0, 1))
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                module.reset_parameters()
            if isinstance(table := getattr(module, "relative_position_bias_table", None), nn.Parameter):
                nn.init.trunc_normal_(table, std=0.02)
            if isinstance(module, ClapAudioLayer):
                # The library drops the attention branch alone; the published network drops both.
                module.output.register_forward_hook(_dropping(module.drop_path))

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
        if config.repeat_short:
            features = features.repeat(1, config.frames // features.shape[1], 1)
        found = self.encoder(features[:, None])
        frames = self.tscam_conv(found.last_hidden_state).flatten(2).transpose(1, 2)  # (batch, steps, classes)
        return Scores(pool(frames, config.pooling), frames, found.pooler_output)


def _dropping(drop_path: nn.Module) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return cast(Tensor, drop_path(output))

    return hook


def _library_config(config: HTSATConfig) -> ClapAudioConfig:
    return ClapAudioConfig(
        window_size=config.window,
        num_mel_bins=config.mel_bins,
        spec_size=config.image,
        patch_size=_PATCH,
        patch_stride=[_PATCH, _PATCH],
        num_classes=config.classes,
        hidden_size=config.dim * 2 ** (len(config.depths) - 1),
        depths=list(config.depths),
        num_attention_heads=list(config.heads),
        num_hidden_layers=len(config.depths),
        patch_embeds_hidden_size=config.dim,
        hidden_dropout_prob=0.0,
        drop_path_rate=config.drop_path,
        layer_norm_eps=1e-5,
    )


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


def official_state(state: Mapping[str, Tensor], model: HTSAT) -> dict[str, Tensor]:
    """Return an official checkpoint's tensors under the names of ``model``.

    Window indices and batch counters follow from the model or decide nothing, so they are the model's own; the frozen
    spectrogram layers, the masks and the unused ``head`` are left out.
    """
    split: dict[str, Tensor] = {}
    for name, tensor in _without_wrapper(state).items():
        if ".qkv." not in name:
            split[name] = tensor
            continue
        for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            split[name.replace(".qkv.", f".self.{part}.")] = piece.clone()
    renamed = rename(
        split,
        [
            (r"^(spectrogram_extractor|logmel_extractor|head)\.", None),
            (r"(attn_mask|relative_position_index|num_batches_tracked)$", None),
            (r"\.norm1\.", ".layernorm_before."),
            (r"\.norm2\.", ".layernorm_after."),
            (r"\.attn\.relative_position_bias_table$", ".attention.self.relative_position_bias_table"),
            (r"\.attn\.self\.", ".attention.self."),
            (r"\.attn\.proj\.", ".attention.output.dense."),
            (r"\.mlp\.fc1\.", ".intermediate.dense."),
            (r"\.mlp\.fc2\.", ".output.dense."),
            (r"^bn0\.", "batch_norm."),
            (r"^(batch_norm|patch_embed|layers|norm)\.", r"encoder.\1."),
        ],
    )
    fixed = ("relative_position_index", "num_batches_tracked")
    return {**{name: tensor for name, tensor in model.state_dict().items() if name.endswith(fixed)}, **renamed}


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
    load_strict(model, official_state(state, model))
    return model.eval()


def hold_frames(frames: Tensor, count: int) -> Tensor:
    """Return frame logits (batch, steps, classes) with each step held for ``count`` frames, as published."""
    return torch.repeat_interleave(frames, count, dim=1)
