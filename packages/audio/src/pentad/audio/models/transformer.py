"""What AST and PaSST share: the library's spectrogram transformer with the published settings, and official names.

`transformers` holds the network exactly, if its blocks normalise with epsilon 1e-6 and its head with 1e-5; the
library's own 1e-12 shifts the logits by 3e-4 of their spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import ASTConfig as LibraryConfig
from transformers import ASTForAudioClassification

from pentad.core.checkpoint import rename
from pentad.core.errors import ModelError

BLOCK_EPS, HEAD_EPS = 1e-6, 1e-5

# Official names of one block, as timm has them, to the library's.
BLOCKS: list[tuple[str, str | None]] = [
    (r"\bblocks\.(\d+)\.norm1\.", r"layers.\1.layernorm_before."),
    (r"\bblocks\.(\d+)\.norm2\.", r"layers.\1.layernorm_after."),
    (r"\bblocks\.(\d+)\.attn\.([qkv])_proj\.", r"layers.\1.attention.\2_proj."),
    (r"\bblocks\.(\d+)\.attn\.proj\.", r"layers.\1.attention.o_proj."),
    (r"\bblocks\.(\d+)\.mlp\.", r"layers.\1.mlp."),
]


class Sizes(Protocol):
    """Settings that decide the transformer."""

    @property
    def classes(self) -> int: ...  # noqa: D102
    @property
    def mel_bins(self) -> int: ...  # noqa: D102
    @property
    def frames(self) -> int: ...  # noqa: D102
    @property
    def patch(self) -> int: ...  # noqa: D102
    @property
    def strides(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def depth(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102


def check_sizes(config: Sizes) -> None:
    """Refuse a transformer that cannot be.

    Raises:
        ModelError: A size is not positive, the heads do not divide the width, or no patch fits the input.
    """
    least = min(config.classes, config.patch, *config.strides, config.dim, config.depth, config.heads)
    if least < 1 or config.dim % config.heads or min(config.mel_bins, config.frames) < config.patch:
        raise ModelError("PTD-702", f"no transformer can be made of {config}", "correct its sizes")


def build_transformer(config: Sizes, attention: str = "sdpa") -> ASTForAudioClassification:
    """Return the library's network with the published epsilons and initial weights.

    Args:
        config: Sizes; strides are (frequency, time).
        attention: ``sdpa``, fused, or ``eager``, the plain formula, for comparison.
    """
    check_sizes(config)
    sizes: dict[str, Any] = {"num_labels": config.classes, "attn_implementation": attention}
    settings = LibraryConfig(
        hidden_size=config.dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.dim,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=BLOCK_EPS,
        patch_size=config.patch,
        frequency_stride=config.strides[0],
        time_stride=config.strides[1],
        max_length=config.frames,
        num_mel_bins=config.mel_bins,
        **sizes,
    )
    network = ASTForAudioClassification(settings)
    network.classifier.layernorm.eps = HEAD_EPS
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    network.audio_spectrogram_transformer.embeddings.patch_embeddings.projection.reset_parameters()
    return network


def grid(config: Sizes, frames: int = 0) -> tuple[int, int]:
    """Return how many patches stand along frequency and time, of the configured input or of so many frames."""
    across = (config.mel_bins - config.patch) // config.strides[0] + 1
    return across, ((frames or config.frames) - config.patch) // config.strides[1] + 1


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with each fused ``qkv`` split into its three equal parts, in that order."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".qkv." not in name:
            split[name] = tensor
            continue
        for letter, part in zip("qkv", tensor.chunk(3), strict=True):
            split[name.replace(".qkv.", f".{letter}_proj.")] = part.clone()
    return split


def rename_blocks(state: Mapping[str, Tensor], rules: list[tuple[str, str | None]]) -> dict[str, Tensor]:
    """Return an official state under the library's names: projections split, blocks renamed, then ``rules``."""
    return rename(split_qkv(state), [*BLOCKS, *rules])


def one_channel(weight: Tensor) -> Tensor:
    """Return a first convolution (dim, 1, h, w) of one made for RGB: the sum over its channels."""
    return weight.sum(1, keepdim=True) if weight.shape[1] > 1 else weight


def sizes_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Return width, depth and heads of an official state, whose heads have 64 channels each."""
    dim = int(state[f"{prefix}patch_embed.proj.weight"].shape[0])
    blocks = {name.removeprefix(f"{prefix}blocks.").split(".")[0] for name in state if f"{prefix}blocks." in name}
    return {"dim": dim, "depth": len(blocks), "heads": max(1, dim // 64)}


def truncated(*shape: int) -> nn.Parameter:
    """Return a parameter drawn from a truncated normal distribution of width 0.02."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
