"""A 4-bit file of an encoder, written here by the layout that its module states, and unpacked."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
import torch
from command import call

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 40,
    "max_position_embeddings": 16,
    "type_vocab_size": 1,
}
NAMES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
    **{
        f"L0.{short}.{kind[0]}": f"encoder.layer.0.{name}.{kind}"
        for short, name in {
            "q": "attention.self.query",
            "k": "attention.self.key",
            "v": "attention.self.value",
            "ao": "attention.output.dense",
            "aln": "attention.output.LayerNorm",
            "fi": "intermediate.dense",
            "fo": "output.dense",
            "oln": "output.LayerNorm",
        }.items()
        for kind in ("weight", "bias")
    },
}


def four_bits(values):
    """Blocks of 32 weights as a float16 scale and 32 halves of bytes, and the weights that they stand for."""
    rows = values.reshape(-1, 32)
    scales = (np.abs(rows).max(1) / 7).astype("<f2")
    halves = np.clip(np.rint(rows / scales[:, None].astype(np.float32)) + 8, 0, 15).astype(np.uint8)
    packed = halves[:, :16] | (halves[:, 16:] << 4)
    content = b"".join(scale.tobytes() + row.tobytes() for scale, row in zip(scales, packed, strict=True))
    return content, ((halves.astype(np.float32) - 8) * scales[:, None].astype(np.float32)).reshape(values.shape)


def write(path, state, mark=b"E5S1", block=32):
    """Write the file and return the tensors that it stands for, by their names in transformers."""
    head = mark + struct.pack("<i7ifi", 1, *SIZES.values(), 1e-12, block)
    tokenizer = struct.pack("<5iQ", 2, 0, 1, 2, 3, 5) + bytes(4 * 3 + 4 * 2 + 5) + struct.pack("<iI", 3, 7) + bytes(7)
    contents, wanted = {}, {}
    for short, name in NAMES.items():
        values = state[name].numpy()
        if values.ndim == 2:
            content, wanted[name] = four_bits(values)
            contents[short] = 1, values.size, content
        else:
            wanted[name] = values
            contents[short] = 0, values.size, values.astype("<f4").tobytes()
    table = sum(2 + len(short) + 21 for short in contents)
    place, lines, blobs = len(head) + len(tokenizer) + 4 + table, b"", b""
    for short, (kind, elements, content) in contents.items():
        lines += struct.pack("<H", len(short)) + short.encode()
        lines += struct.pack("<BIQQ", kind, elements, place + len(blobs), len(content))
        blobs += content
    path.write_bytes(head + tokenizer + struct.pack("<i", len(contents)) + lines + blobs)
    return wanted


@pytest.fixture(scope="module")
def encoder():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES), add_pooling_layer=False).state_dict()


def unpack(folder):
    options = ("--tokenizer", folder / "tokenizer.json", "-o", folder / "out")
    return call("nlp", "models", "import", folder / "small.bin", *options)


def test_transformers_loads_what_was_unpacked_weight_by_weight(encoder, tmp_path):
    from transformers import AutoModel

    wanted = write(tmp_path / "small.bin", encoder)
    (tmp_path / "tokenizer.json").write_text("{}")
    done = unpack(tmp_path)
    assert done.code == 0, done.err
    assert f"{len(NAMES)} tensors" in done.out
    loaded = AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False).state_dict()
    for name, values in wanted.items():
        assert np.array_equal(loaded[name].numpy(), values), name
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()
    assert "PTD-806" in unpack(tmp_path).sentence()


@pytest.mark.parametrize("damage", ["mark", "block", "cut", "tokenizer"])
def test_a_damaged_file_is_one_sentence_and_leaves_nothing(encoder, tmp_path, damage):
    how = {"mark": {"mark": b"GGUF"}, "block": {"block": 64}}.get(damage, {})
    write(tmp_path / "small.bin", encoder, **how)
    (tmp_path / "tokenizer.json").write_text("{" if damage == "tokenizer" else "{}")
    if damage == "cut":
        content = (tmp_path / "small.bin").read_bytes()
        (tmp_path / "small.bin").write_bytes(content[: len(content) // 2])
    done = unpack(tmp_path)
    assert done.code == 5
    assert re.match("PTD-785" if damage == "tokenizer" else "PTD-807", done.sentence())
    assert not (tmp_path / "out").exists()
