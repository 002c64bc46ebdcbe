"""Foreign checkpoints: read without running them, renamed, and loaded whole or refused by name."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pentad.core.checkpoint import load_strict, own_tensors, read_checkpoint, rename, resolve_aliases, write_tensors
from pentad.core.errors import ModelError


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.output = nn.Linear(3, 4, bias=False)
        self.output.weight = self.embedding.weight


def state():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(tmp_path, legacy):
    trap = tmp_path / "trap"
    torch.save({"a": Malicious(trap)}, tmp_path / "m.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"PTD-512 .*wants to run 'posix.mkdir'.*nothing in it was run"):
        read_checkpoint(tmp_path / "m.pth")
    assert not trap.exists()


@pytest.mark.parametrize("name", ["m.safetensors", "m.bin"])
def test_safetensors_are_known_by_their_content(tmp_path, name):
    save_file(state(), tmp_path / name)
    assert torch.equal(read_checkpoint(tmp_path / name)["a.weight"], state()["a.weight"])


def test_an_entry_beside_a_log_of_numpy_numbers_is_read(tmp_path):
    log = {"losses": [np.float32(1), np.float64(2), np.int64(3)], "epoch": 7}
    torch.save({"network_weights": state(), "logging": log}, tmp_path / "m.pth")
    assert read_checkpoint(tmp_path / "m.pth", entry="network_weights").keys() == state().keys()


def test_a_file_with_several_entries_names_those_with_tensors(tmp_path):
    torch.save({"model": {"net": state()}, "ema": state(), "epoch": 7}, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"PTD-513 .*name one of its entries: ema\."):
        read_checkpoint(tmp_path / "m.pth")
    assert read_checkpoint(tmp_path / "m.pth", entry="model/net").keys() == state().keys()


def test_an_unknown_entry_names_the_nearest(tmp_path):
    torch.save({"state_dict": state()}, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"PTD-513 .*no entry 'state' .did you mean 'state_dict'"):
        read_checkpoint(tmp_path / "m.pth", entry="state")


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "text.pth", "empty.pth"])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, name):
    save_file(state(), tmp_path / "cut.safetensors")
    torch.save(state(), tmp_path / "cut.pth")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    (tmp_path / "empty.pth").touch()
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) - 9])
    with pytest.raises(ModelError, match="PTD-511") as caught:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ModelError, match=r"PTD-510 nowhere.pth: no such checkpoint file"):
        read_checkpoint(Path("nowhere.pth"))


def test_rules_rename_in_order_and_drop():
    found = rename(
        {"module.layers.0.w": torch.ones(1), "module.total_ops": torch.ones(1)},
        [(r"^module\.", ""), (r"^layers\.(\d+)", r"blocks.\1"), (r"total_ops$", None)],
    )
    assert list(found) == ["blocks.0.w"]


def test_rules_that_join_two_tensors_are_refused():
    with pytest.raises(ModelError, match=r"PTD-514 'b.w' and another tensor would both be named 'x.w'"):
        rename({"a.w": torch.ones(1), "b.w": torch.ones(1)}, [("^[ab]", "x")])


def test_aliases_are_dropped_where_equal_and_renamed_where_alone():
    one = torch.ones(2)
    assert list(resolve_aliases({"e.w": one, "d.e.w": one.clone()}, {"d.e.w": "e.w"})) == ["e.w"]
    assert list(resolve_aliases({"d.e.w": one}, {"d.e.w": "e.w", "d.e.b": "e.b"})) == ["e.w"]


def test_aliases_that_disagree_are_refused():
    with pytest.raises(ModelError, match=r"PTD-515 .*differ in the checkpoint: 'd.w' and 'e.w'"):
        resolve_aliases({"e.w": torch.ones(2), "d.w": torch.zeros(2)}, {"d.w": "e.w"})


def test_every_missing_unexpected_and_misshapen_tensor_is_named_and_nothing_loaded():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = own_tensors(model)
    given = {
        "0.weight": torch.ones(2, 4),
        "0.bias": torch.ones(2),
        "1.weight": torch.ones(2, 2),
        "2.bias": torch.ones(1),
    }
    sentence = "missing: 1.bias, and unexpected: 2.bias, and misshapen: 0.weight (2, 4) instead of (2, 3)"
    with pytest.raises(ModelError, match=re.escape(sentence)):
        load_strict(model, given)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_loaded_tensors_take_the_models_precision():
    model = nn.Linear(3, 2)
    load_strict(model, {"weight": torch.ones(2, 3, dtype=torch.float16), "bias": torch.zeros(2, dtype=torch.float64)})
    assert model.weight.dtype is torch.float32
    assert model.weight.sum() == 6


def test_a_tensor_with_two_names_is_written_once_and_loads_from_one(tmp_path):
    model, other = Tied(), Tied()
    write_tensors(tmp_path / "m.safetensors", own_tensors(model))
    found = read_checkpoint(tmp_path / "m.safetensors")
    load_strict(other, found)
    assert list(found) == ["embedding.weight"]
    assert torch.equal(other.output.weight, model.output.weight)


def test_equal_tensors_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_tensors(tmp_path / name, state())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
