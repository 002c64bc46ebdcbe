"""Bundles: what is saved comes back equal, and anything else is refused in one sentence."""

import json
import os
import shutil
import socket
import stat
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pentad.core.bundle import (
    PublishedModel,
    bundle_folder,
    check_bundle,
    load_bundle,
    peek_manifest,
    read_manifest,
    save_bundle,
)
from pentad.core.errors import ModelError, UsageError
from pentad.core.files import digest_file, digest_json


@dataclass(frozen=True)
class HeadConfig:
    classes: int = 2


@dataclass(frozen=True)
class NetConfig:
    kernels: tuple[tuple[int, ...], ...] = ((3, 3), (1, 3))
    channels: int = 4
    head: HeadConfig = HeadConfig(3)


class Net(PublishedModel):
    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        widths = [1, *[config.channels] * len(config.kernels)]
        layers = [nn.Conv2d(*widths[i : i + 2], kernel) for i, kernel in enumerate(config.kernels)]
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(config.channels), nn.Dropout(0.5))
        self.head = nn.Conv2d(config.channels, config.head.classes, 1)

    def forward(self, x):
        return self.head(self.layers(x))


MODELS = {"net": Net}
X = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
SETTINGS = {"classes": ["none", "liver"], "spacing": [1.0, 2.0], "window": None}


def save(folder, model, **changes):
    statement = dict(domain="medical", name="net", settings=SETTINGS, card="# Net", provenance={"seed": 1}) | changes
    return save_bundle(folder, model, **statement)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net(NetConfig(kernels=((3, 1), (2, 2), (1, 1))))


@pytest.fixture
def saved(tmp_path, model):
    save(tmp_path / "bundle", model)
    return tmp_path / "bundle"


def resign(folder, **changes):
    """Give a changed bundle digests that agree again."""
    manifest = json.loads((folder / "bundle.json").read_text()) | changes
    manifest.pop("digest")
    manifest["files"] = {name: digest_file(folder / name) for name in manifest["files"]}
    (folder / "bundle.json").write_text(json.dumps({**manifest, "digest": digest_json(manifest)}))


def test_a_bundle_comes_back_with_equal_outputs_settings_and_configuration(saved, model):
    bundle = load_bundle(saved, "medical", MODELS)
    assert torch.equal(bundle.model(X), model.eval()(X))
    assert bundle.model.config == model.config
    assert (bundle.name, bundle.settings, bundle.provenance) == ("net", SETTINGS, {"seed": 1})
    assert bundle.licences == dict.fromkeys(("code", "weights", "data"), "not stated")


def test_the_digest_is_a_function_of_the_content(tmp_path, model):
    first, second = save(tmp_path / "a", model), save(tmp_path / "b", model)
    other = save(tmp_path / "c", model, settings={**SETTINGS, "window": 1})
    assert first == second == load_bundle(tmp_path / "b", "medical", MODELS, expect_digest=first).digest
    assert other != first


def test_the_card_may_be_mended_without_making_another_model(saved):
    before = load_bundle(saved, "medical", MODELS).digest
    (saved / "README.md").write_text("# Net, liver")
    assert load_bundle(saved, "medical", MODELS).digest == before


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_one_changed_byte_is_found_and_its_file_named(saved, file):
    content = bytearray((saved / file).read_bytes())
    content[-3] ^= 1
    (saved / file).write_bytes(content)
    with pytest.raises(ModelError, match=rf"PTD-503 .*{file} is not as it was saved"):
        load_bundle(saved, "medical", MODELS)


def test_settings_changed_by_hand_are_found(saved):
    text = (saved / "bundle.json").read_text()
    (saved / "bundle.json").write_text(text.replace("liver", "river"))
    with pytest.raises(ModelError, match=r"PTD-503 .*bundle.json is not as it was saved"):
        load_bundle(saved, "medical", MODELS)


def test_damaged_weights_with_agreeing_digests_are_refused(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    resign(saved)
    with pytest.raises(ModelError, match="PTD-511"):
        load_bundle(saved, "medical", MODELS)


def test_weights_of_other_shapes_are_named(saved):
    save_file({"head.bias": torch.zeros(7)}, saved / "model.safetensors")
    resign(saved)
    with pytest.raises(ModelError, match=r"PTD-516 .*bundle: .*misshapen: head.bias \(7,\) instead of \(3,\)"):
        load_bundle(saved, "medical", MODELS)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ({"domain": "audio"}, "PTD-505 .*a bundle of 'medical', not of 'audio'"),
        ({"models": {"nets": Net}}, r"PTD-506 .*'net' is not among those of medical .did you mean 'nets'"),
        ({"expect_digest": "0" * 64}, "PTD-504 .*not 000000000000"),
    ],
)
def test_another_domain_architecture_or_digest_is_refused(saved, call, code):
    with pytest.raises(ModelError, match=code):
        load_bundle(saved, **({"domain": "medical", "models": MODELS} | call))


@pytest.mark.parametrize("change", [{"channelz": 4}, {"channels": "many"}, {"channels": -1}])
def test_a_configuration_that_does_not_fit_is_refused(saved, change):
    config = json.loads((saved / "config.json").read_text()) | change
    (saved / "config.json").write_text(json.dumps(config))
    resign(saved)
    with pytest.raises(ModelError, match="PTD-507"):
        load_bundle(saved, "medical", MODELS)


def test_a_manifest_whose_files_have_no_digests_is_refused(saved):
    manifest = json.loads((saved / "bundle.json").read_text())
    (saved / "bundle.json").write_text(json.dumps({**manifest, "files": ["model.safetensors"]}))
    with pytest.raises(ModelError, match=r"PTD-502 .*lacks digests by file"):
        read_manifest(saved)


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "[]", '{"format": "pentad-bundle/9"}', '{"format": "pentad-bundle/1"}']
)
def test_a_manifest_that_cannot_be_read_is_refused(saved, text):
    (saved / "bundle.json").write_text(text)
    with pytest.raises(ModelError, match="PTD-502"):
        read_manifest(saved)


def test_a_folder_that_is_missing_or_no_bundle_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"PTD-500 .*no such folder"):
        load_bundle(tmp_path / "nowhere", "medical", MODELS)
    with pytest.raises(ModelError, match=r"PTD-501 .*no bundle.json"):
        load_bundle(tmp_path, "medical", MODELS)


@pytest.fixture
def attempts(monkeypatch):
    """Record every attempt to reach another machine, and let none succeed."""
    found = []

    def refuse(*arguments, **named):
        found.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return found


def test_a_hub_id_offline_is_one_sentence_without_any_network(attempts):
    with pytest.raises(ModelError, match=r"PTD-500 pentad-tests/none: neither a folder nor downloaded before"):
        load_bundle("pentad-tests/none@v1", "medical", MODELS, offline=True)
    assert attempts == []


def test_a_folder_needs_no_network(attempts, saved):
    load_bundle(saved, "medical", MODELS)
    Net.from_pretrained(saved)
    assert attempts == []


def test_a_bundle_downloaded_before_loads_offline_by_its_hub_id(attempts, saved, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--pentad-tests--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text("0" * 40)
    shutil.copytree(saved, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load_bundle("pentad-tests/net@v1", "medical", MODELS, offline=True).settings == SETTINGS
    assert Net.from_pretrained("pentad-tests/net", revision="v1", local_files_only=True).config.channels == 4
    assert attempts == []


def test_a_hub_id_that_cannot_be_reached_is_one_sentence(attempts):
    with pytest.raises(ModelError, match=r"PTD-500 pentad-tests/none: .*nor to be had from the hub"):
        load_bundle("pentad-tests/none", "medical", MODELS)


def test_nothing_is_overwritten_unless_told_and_then_only_a_bundle(tmp_path, model):
    save(tmp_path / "bundle", model)
    with pytest.raises(UsageError, match=r"PTD-508 .*holds something already"):
        save(tmp_path / "bundle", model)
    save(tmp_path / "bundle", model, settings={"new": 1}, overwrite=True)
    assert read_manifest(tmp_path / "bundle")["settings"] == {"new": 1}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"PTD-508 .*no bundle"):
        save(tmp_path / "other", model, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "other"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, model):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"PTD-509 .*cannot be written"):
        save(tmp_path / "file" / "bundle", model)


def test_others_may_read_what_one_saves(saved):
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o777 & ~mask


def test_the_hubs_own_save_and_load_keep_nested_tuples(tmp_path, model):
    model.save_pretrained(tmp_path)
    again = Net.from_pretrained(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(X), model.eval()(X))


def test_further_files_stand_in_the_bundle_and_count_in_its_digests(tmp_path, model):
    save(tmp_path / "bundle", model, extra={"tokenizer.json": "{}"})
    bundle = load_bundle(tmp_path / "bundle", "medical", MODELS)
    assert (bundle.folder / "tokenizer.json").read_text() == "{}"
    (tmp_path / "bundle" / "tokenizer.json").write_text("[]")
    with pytest.raises(ModelError, match=r"PTD-503 .*tokenizer\.json is not as it was saved"):
        load_bundle(tmp_path / "bundle", "medical", MODELS)


@pytest.mark.parametrize(
    "ask",
    [
        bundle_folder,
        peek_manifest,
        Net.from_pretrained,
        lambda source: check_bundle(source, "medical", MODELS),
        lambda source: load_bundle(source, "medical", MODELS),
    ],
)
def test_the_hub_is_asked_unless_told_not_to(ask, attempts):
    with pytest.raises(ModelError, match=r"PTD-500 pentad-tests/none: neither a folder nor to be had from the hub"):
        ask("pentad-tests/none")
    assert attempts


def test_a_bundle_makes_the_folders_above_it(tmp_path, model):
    assert save(tmp_path / "a" / "b" / "bundle", model) == read_manifest(tmp_path / "a" / "b" / "bundle")["digest"]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["bundle"]


def test_of_several_processes_the_first_alone_writes(tmp_path, model, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert save(tmp_path / "bundle", model) == ""
    assert list(tmp_path.iterdir()) == []


def test_the_card_ends_with_the_licences_that_were_told(tmp_path, model):
    save(tmp_path / "bundle", model, card="# Net\n\n", licences={"weights": "CC0-1.0"})
    told = "- code: not stated\n- weights: CC0-1.0\n- data: not stated\n"
    assert (tmp_path / "bundle" / "README.md").read_text() == f"# Net\n\n## Licences\n\n{told}"
