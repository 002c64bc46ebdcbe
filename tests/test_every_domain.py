"""What holds for the batch run of every domain: engines, faults of the machine, hostile names, models given on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import pytest
import torch
from command import call, command, everything_written, run
from core.batch_results import results
from domains import CLASSES, DOMAINS, LICENCES, Trap, example
from safetensors.torch import load_file

from pentad.core.batch import folder as batch_folder
from pentad.core.batch.folder import new_run
from pentad.core.batch.journal import read_journal
from pentad.core.bundle import read_manifest
from pentad.core.files import digest_file, digest_json

pytestmark = pytest.mark.slow
EVIL = "=<b id=evil onclick=alert(1)>&"
YESTERDAY = "2001-02-03T04:05:06.789Z"


@pytest.fixture(scope="module", params=DOMAINS)
def made(request, tmp_path_factory):
    return example(request.param, tmp_path_factory.mktemp(request.param))


def contents(made):
    """What lies where a run reads, and when it was written."""
    paths = [path for root in (made.inputs, made.bundle) for path in (root, *root.rglob("*"))]
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The run that nothing disturbs, and that writes nothing beside what it reads."""
    out = tmp_path_factory.mktemp("whole")
    before = contents(made)
    done = call(*made.predict(out, "--run", "r"))
    assert done.code == 0, done.err
    assert contents(made) == before
    found = results(out / "r")
    assert len({name.split("/")[1] for name in found if name.startswith("cases/")}) >= 3
    return found


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    from pentad.core.batch.ray_engine import connected

    with connected():
        yield


def test_workers_on_ray_give_the_same_results(made, whole, cluster, tmp_path):
    done = call(*made.predict(tmp_path, "--run", "r", "--engine", "ray"))
    assert done.code == 0, done.err
    assert results(tmp_path / "r") == whole


def test_a_killed_run_goes_on_where_it_was_even_if_the_clock_went_back(made, whole, tmp_path, monkeypatch):
    journal = tmp_path / "r" / "journal.jsonl"
    process = subprocess.Popen(command(*made.predict(tmp_path, "--run", "r")), start_new_session=True)
    limit = time.monotonic() + 240
    while process.poll() is None and not (journal.is_file() and journal.read_bytes()):
        assert time.monotonic() < limit
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = read_journal(journal)
    for module in ("run", "folder"):
        monkeypatch.setattr(f"pentad.core.batch.{module}.utc_now", lambda: YESTERDAY)
    assert before
    done = call(*made.predict(tmp_path, "--resume", "r"))
    assert done.code == 0, done.err
    assert results(tmp_path / "r") == whole
    after = read_journal(journal)
    assert {name: after[name] for name in before} == before
    assert all(record.time == YESTERDAY for name, record in after.items() if name not in before)
    assert batch_folder.read_state(tmp_path / "r").seconds > 0


def test_a_disk_that_fills_up_stops_the_run_without_half_a_case_and_resuming_finishes_it(made, whole, tmp_path):
    done = run(*made.predict(tmp_path, "--run", "r"), largest_file=7000)  # the run's own files fit, a case's do not
    assert done.code == 3
    assert "Traceback" not in done.err + everything_written(tmp_path)
    assert "PTD-301" in (tmp_path / "r" / "worklist.csv").read_text()
    assert list((tmp_path / "r" / "cases").iterdir()) == []
    done = call(*made.predict(tmp_path, "--resume", "r"))
    assert done.code == 0, done.err
    assert results(tmp_path / "r") == whole


@pytest.mark.parametrize("place", ["file", "/sys"])  # a file is in the way; a file system that takes no folder
def test_an_output_that_cannot_be_written_is_said_before_anything_begins(made, tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    done = call(*made.predict(tmp_path / place / "out", "--run", "r"))
    assert (done.code, "PTD-241" in done.sentence()) == (2, True)


def test_results_among_the_inputs_are_no_inputs(made, tmp_path):
    shutil.copytree(made.inputs, tmp_path / "inputs")
    before = replace(made, inputs=tmp_path / "inputs")
    first = call(*before.predict(tmp_path / "none", "--dry-run"))
    run_folder = tmp_path / "inputs" / "out" / "r"
    for name in ("run.json", "worklist.csv", "rejected.jsonl", "cases/a/a.txt", "cases/a/a.wav", "cases/a/a.nii"):
        (run_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run_folder / name).write_text("{}")
    shutil.copytree(made.inputs, run_folder / "cases" / "b")
    again = call(*before.predict(tmp_path / "none", "--dry-run"))
    assert (again.code, named(again.out)) == (0, named(first.out))


def named(told):
    """The ids of the cases that a dry run would process."""
    found = [line.split()[2] for line in told.splitlines() if line.startswith("would process")]
    assert len(found) >= 3
    return found


def test_of_two_runs_in_one_folder_the_second_is_refused(made, tmp_path):
    with new_run(tmp_path, "r"):
        done = call(*made.predict(tmp_path, "--resume", "r"))
    assert (done.code, "PTD-245" in done.sentence()) == (2, True)


@pytest.mark.parametrize("domain", DOMAINS)
def test_hostile_names_are_never_markup_or_formulas_and_links_lead_nowhere_unseen(domain, tmp_path):
    made = example(domain, tmp_path, EVIL)
    (made.inputs / f"{EVIL}broken.txt").write_bytes(b"\x00\xff")
    (made.inputs / "circle").symlink_to(made.inputs)
    first = min(path for path in made.inputs.rglob("*") if EVIL in path.name and "broken" not in path.name)
    ends = "".join(first.suffixes)
    (first.parent / f"gone{ends}").symlink_to("nowhere")
    (first.parent / f"loop{ends}").symlink_to(f"loop{ends}")
    done = call(*made.predict(tmp_path / "out", "--run", "r"))
    assert done.code == 3, done.err
    pages = list((tmp_path / "out").rglob("*.html"))
    assert pages
    assert not [page for page in pages if "<b id=evil" in page.read_text(encoding="utf-8")]
    with (tmp_path / "out" / "r" / "worklist.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert sum(row[1] == "ok" for row in rows) == 3
    for name in ("gone", "loop"):
        assert [row[1] for row in rows if name in row[0]] in (["failed"], ["rejected"])
    assert not [cell for row in rows for cell in row if cell.startswith("=")]
    assert {path.name for path in tmp_path.iterdir()} == {"inputs", "bundle", "out"}


def test_a_bundle_is_what_from_pretrained_takes_and_states_all_licences(made):
    kind = CLASSES[made.domain]
    model = kind.from_pretrained(made.bundle, local_files_only=True)
    stored, state = load_file(made.bundle / "model.safetensors"), model.state_dict()
    assert all(torch.equal(state[name], stored[name]) for name in stored)  # shared tensors are stored once
    model.save_pretrained(made.bundle.parent / "again")
    again = kind.from_pretrained(made.bundle.parent / "again")
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    assert read_manifest(made.bundle)["licences"] == LICENCES
    card = (made.bundle / "README.md").read_text()
    assert all(f"- {name}: {text}" in card for name, text in LICENCES.items())


FORMATS = {
    "audio": "onnx",
    "medical": "monai",
    "nlp": "transformers",
    "point-clouds": "onnx",
    "remote-sensing": "onnx",
}


def test_an_export_is_proven_and_states_all_licences(made, tmp_path):
    pytest.importorskip("onnxscript")
    kind = FORMATS[made.domain]
    done = call(made.domain, "models", "export", made.bundle, "-o", tmp_path / "out", "--format", kind)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["largest_error"] <= report["tolerance"] * report["largest_logit"]
    assert report["licences"] == LICENCES
    [card] = (tmp_path / "out").rglob("README.md")
    assert f"- weights: {LICENCES['weights']}" in card.read_text()


def test_a_bundle_whose_weights_are_a_pickle_with_code_is_refused_unread(made, tmp_path):
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    torch.save({"weight": Trap(tmp_path / "sprung")}, bundle / "model.safetensors")
    manifest = read_manifest(bundle)
    manifest["files"]["model.safetensors"] = digest_file(bundle / "model.safetensors")
    manifest["digest"] = digest_json({key: value for key, value in manifest.items() if key != "digest"})
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    trapped = replace(made, bundle=bundle)
    done = call(*trapped.predict(tmp_path / "out", "--run", "r"))
    assert (done.code, "PTD-51" in done.sentence()) == (5, True)
    assert not (tmp_path / "sprung").exists()


PUBLISHED = {
    "audio": ("--model", "ast"),
    "medical": ("--architecture", "swin_unet"),
    "point-clouds": (),
    "remote-sensing": (),
}


@pytest.mark.parametrize("domain", PUBLISHED)  # encoders of texts: tests/nlp/test_models.py
def test_a_published_checkpoint_that_asks_for_code_is_refused_and_the_code_not_run(domain, tmp_path):
    torch.save({"model": {"weight": Trap(tmp_path / "sprung")}}, tmp_path / "published.pth")
    order = (domain, "models", "import", tmp_path / "published.pth", "-o", tmp_path / "made", *PUBLISHED[domain])
    done = call(*order)
    assert (done.code, "PTD-512" in done.sentence()) == (5, True)
    assert [path.name for path in tmp_path.iterdir()] == ["published.pth"]
