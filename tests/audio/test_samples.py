from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pentad.audio.samples import SNRS, make_clip, write
from pentad.audio.sounds import SOUNDS, sine

DIGEST = Path(__file__).parents[1] / "reference" / "samples_audio.sha256"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    write(root)
    return root / "audio" / "sounds"


def digest_tree(folder):
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(
            f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return whole.hexdigest()


def test_all_bytes_are_those_of_the_stored_digest(samples):
    assert digest_tree(samples) == DIGEST.read_text().strip()


def test_every_fold_holds_every_class_and_all_stays_under_40_megabytes(samples):
    rows = list(csv.DictReader((samples / "meta.csv").open()))
    assert len(rows) == 240
    for fold in "12345":
        assert {label for row in rows if row["fold"] == fold for label in row["labels"].split(";")} == set(SOUNDS)
    assert sum(path.stat().st_size for path in samples.rglob("*") if path.is_file()) < 40e6


def test_events_lie_where_the_table_says_at_the_snr_it_says(samples):
    rows = {row["filename"]: row for row in csv.DictReader((samples / "meta.csv").open())}
    loud = [name for name, row in rows.items() if row["snr_db"] == "20" and ";" not in row["labels"]]
    events = list(csv.DictReader((samples / "strong.tsv").open(), delimiter="\t"))
    for name in loud[:10]:
        wave, rate = soundfile.read(samples / "audio" / name)
        power = np.convolve(wave**2, np.ones(800) / 800, "same")
        inside = np.zeros(len(wave), bool)
        for event in (event for event in events if event["filename"] == name):
            inside[int(float(event["onset"]) * rate) : int(float(event["offset"]) * rate)] = True
        ratio = 10 * np.log10(power[inside].mean() / np.median(power[~inside]))
        assert 17 < ratio < 24


def test_a_clip_is_made_again_alike():
    assert np.array_equal(make_clip(17).wave, make_clip(17).wave)
    assert make_clip(17).snr_db in SNRS


def test_the_own_sine_is_the_sine():
    cycles = np.linspace(-3, 3, 1001)
    assert np.abs(sine(cycles) - np.sin(2 * np.pi * cycles)).max() < 1e-9
