"""HTS-AT on transformers' CLAP encoder with the weights of ours: what `pentad.audio.models.hts_at` is measured against.

The library's network is the published one from the batch norm to the unfolded map; the token-semantic head is the same
on both sides. Its stochastic depth is on the attention branch alone, so it is left out here of both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import ClapAudioConfig
from transformers.models.clap.modeling_clap import ClapAudioEncoder

from pentad.audio.models.hts_at import HTSAT, HTSATConfig
from pentad.audio.models.pooling import pool
from pentad.audio.models.scores import Scores
from pentad.audio.models.stretching import stretched
from pentad.core.checkpoint import load_strict, rename

RULES: list[tuple[str, str | None]] = [
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.(self\.|relative_position_bias_table$)", r".attention.self.\1"),
    (r"(\.attention\.self\.)self\.", r"\1"),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^bn0\.", "batch_norm."),
    (r"^tscam_conv\.", None),
]


class ClapHTSAT(nn.Module):
    """The library's encoder below the token-semantic head."""

    def __init__(self, own: HTSAT) -> None:
        super().__init__()
        config: HTSATConfig = own.config
        self.config, self.tscam_conv = config, own.tscam_conv
        self.encoder = ClapAudioEncoder(library_config(config))  # type: ignore[no-untyped-call]
        fixed = {name: part for name, part in self.encoder.state_dict().items() if name.endswith("position_index")}
        load_strict(self.encoder, {**fixed, **library_state(own)})

    def forward(self, features: Tensor) -> Scores:
        """Return what HTSAT returns for features (batch, frames, mel bins)."""
        found = self.encoder(stretched(features, self.config.frames)[:, None])
        frames = self.tscam_conv(found.last_hidden_state).flatten(2).transpose(1, 2)
        return Scores(pool(frames, self.config.pooling), frames, found.pooler_output)


def library_state(own: HTSAT) -> dict[str, Tensor]:
    """Return the weights under the library's names; it has query, key and value apart."""
    split: dict[str, Tensor] = {}
    for name, tensor in own.state_dict().items():
        if ".qkv." not in name:
            split[name] = tensor
            continue
        for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            split[name.replace(".qkv.", f".self.{part}.")] = piece.clone()
    return rename(split, RULES)


def library_config(config: HTSATConfig) -> ClapAudioConfig:
    """Return the library's configuration of the same network."""
    return ClapAudioConfig(
        window_size=config.window,
        num_mel_bins=config.mel_bins,
        spec_size=config.image,
        patch_size=4,
        patch_stride=[4, 4],
        num_classes=config.classes,
        hidden_size=config.dim << (len(config.depths) - 1),
        depths=list(config.depths),
        num_attention_heads=list(config.heads),
        num_hidden_layers=len(config.depths),
        patch_embeds_hidden_size=config.dim,
        hidden_dropout_prob=0.0,
        drop_path_rate=0.0,
        layer_norm_eps=1e-5,
    )


def pair() -> tuple[HTSAT, ClapHTSAT]:
    """Return both at the published size with the same random weights."""
    torch.manual_seed(0)
    own = HTSAT(HTSATConfig(drop_path=0.0))
    return own.eval(), ClapHTSAT(own).eval()
