"""Whatever a user feeds it: one sentence with a code, and the rest goes on."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio.conftest import RATE, tone
from command import call

from pentad.audio.dataset import ClipConfig, Clips
from pentad.audio.waveform import read, read_header
from pentad.core.cases import Case, read_cases
from pentad.core.errors import CaseError


def broken(folder):
    """Files that cannot be used, by the code they are refused with."""
    good = tone(400, 1.0)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("these are words, not samples\n" * 20)
    soundfile.write(folder / "cut.flac", np.random.default_rng(0).normal(0, 0.1, 8 * RATE), RATE)
    content = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(content[: len(content) // 2])
    soundfile.write(folder / "cut.wav", good, RATE)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:9000])
    nan = good.copy()
    nan[100] = np.nan
    soundfile.write(folder / "nan.wav", nan, RATE, subtype="FLOAT")
    soundfile.write(folder / "constant.wav", np.full(RATE, 0.25), RATE)
    soundfile.write(folder / "one.wav", good[:1], RATE)
    soundfile.write(folder / "none.wav", good[:0], RATE)
    return {
        "empty.wav": "PTD-711",
        "none.wav": "PTD-711",
        "text.wav": "PTD-713",
        "cut.flac": "PTD-71[34]",
        "cut.wav": "PTD-714",
        "nan.wav": "PTD-715",
        "one.wav": "PTD-716",
        "constant.wav": "PTD-717",
    }


def odd(folder):
    """Files that can be used, by what is said of them."""
    soundfile.write(folder / "telephone.wav", tone(400, 1.0, 4000), 4000)
    soundfile.write(folder / "surround.wav", np.stack([tone(400, 1.0, seed=k) for k in range(8)], axis=1), RATE)
    soundfile.write(folder / "clipped.wav", np.clip(20 * tone(400, 1.0), -1, 1), RATE)
    return {
        "telephone.wav": "resampled_from_4000_hz;narrow_band",
        "surround.wav": "mean_of_8_channels",
        "clipped.wav": "clipped",
    }


def test_every_broken_file_fails_alone_with_its_sentence_and_odd_ones_go_on(tmp_path, bundle):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    codes, flags = broken(recordings), odd(recordings)
    done = call("audio", "predict", recordings, "-o", tmp_path, "--model", bundle, "--run", "r", "--quiet")
    assert done.code == 3
    assert "Traceback" not in done.out + done.err
    rows = {row["id"]: row for row in csv.DictReader((tmp_path / "r" / "worklist.csv").open())}
    assert {name for name, row in rows.items() if row["status"] == "failed"} == set(codes)
    for name, code in codes.items():
        assert rows[name]["reason"].startswith(f"{name}: ")
        assert rows[name]["reason"].count(".wav") + rows[name]["reason"].count(".flac") == 1
        assert rows[name]["code"] in (code, code.replace("[34]", "3"), code.replace("[34]", "4"))
    for name, said in flags.items():
        assert rows[name]["flags"].removesuffix(";no_event") == said


@pytest.fixture
def esc(tmp_path):
    """Ten clips in the layout of ESC-50, two official folds."""
    raw = tmp_path / "esc"
    (raw / "audio").mkdir(parents=True)
    lines = ["filename,fold,target,category"]
    for number in range(10):
        name = f"{number % 2 + 1}-{number}-A-0.wav"
        soundfile.write(raw / "audio" / name, tone(300 + 100 * number, 0.5, seed=number), RATE)
        lines.append(f"{name},{number % 2 + 1},0,{'dog' if number < 5 else 'cat'}")
    (raw / "meta.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "params.yaml").write_text("prepare:\n  folds: {test: [2]}\n  classes: [dog, cat]\n")
    return raw


def prepare(raw, tmp_path, *options):
    done = call("audio", "prepare", raw, "-o", tmp_path / "out", "--params", tmp_path / "params.yaml", *options)
    assert "Traceback" not in done.out + done.err
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines() if done.code in (0, 3) else []
    return done, [json.loads(line) for line in lines]


def test_official_folds_become_splits(esc, tmp_path):
    done, rejected = prepare(esc, tmp_path)
    assert (done.code, rejected) == (0, [])
    assert "test 5, train 5" in done.out


def test_a_copy_in_another_fold_is_refused(esc, tmp_path):
    shutil.copy(esc / "audio" / "1-0-A-0.wav", esc / "audio" / "2-1-A-0.wav")
    done, (refusal,) = prepare(esc, tmp_path)
    assert done.code == 3
    assert refusal["code"] == "PTD-729"
    assert "the same bytes as 1-0-A-0.wav, which fold 1 holds already" in refusal["reason"]


def test_an_unknown_class_is_refused_and_named_with_its_nearest(esc, tmp_path):
    text = (esc / "meta.csv").read_text()
    (esc / "meta.csv").write_text(text.replace("1-0-A-0.wav,1,0,dog", "1-0-A-0.wav,1,0,doge"))
    _, (refusal,) = prepare(esc, tmp_path)
    assert refusal["code"] == "PTD-727"
    assert "'doge' is not in prepare.classes (did you mean 'dog'?)" in refusal["reason"]


def test_a_missing_file_is_refused_and_the_rest_prepared(esc, tmp_path):
    (esc / "audio" / "1-0-A-0.wav").unlink()
    done, (refusal,) = prepare(esc, tmp_path)
    assert refusal["code"] == "PTD-712"
    assert "9 recordings" in done.out


def test_nothing_usable_is_said_in_one_sentence(tmp_path):
    raw = tmp_path / "raw" / "class"
    raw.mkdir(parents=True)
    (raw / "empty.wav").write_bytes(b"")
    (tmp_path / "params.yaml").write_text("prepare: {}\n")
    done, _ = prepare(raw.parent, tmp_path)
    assert done.code == 4
    assert "PTD-726" in done.sentence()


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
def test_common_formats_are_decoded(name, tmp_path):
    soundfile.write(tmp_path / name, tone(440, 1.0, 16_000), 16_000)
    signal, samples = read(tmp_path / name, 16_000)
    assert abs(len(samples) - 16_000) < 1700  # MP3 pads
    assert np.abs(np.fft.rfft(samples)).argmax() == pytest.approx(440 * len(samples) / 16_000, abs=2)
    assert signal.flags() == []


def test_resampling_in_blocks_equals_resampling_at_once(tmp_path):
    from pentad.audio.waveform import stream

    soundfile.write(tmp_path / "a.wav", tone(440, 3.0, 44_100), 44_100)
    _, blocks = stream(tmp_path / "a.wav", 16_000, block_s=0.11)
    whole = read(tmp_path / "a.wav", 16_000)[1]
    pieces = np.concatenate(list(blocks))
    assert len(pieces) == len(whole) == 48_000
    assert np.abs(pieces - whole).max() < 1e-6


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(CaseError, match=r"PTD-712 nowhere.wav: cannot be read"):
        read(Path("/nonexistent/nowhere.wav"), 16_000)


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.w64", "a.caf", "a.flac"])
def test_a_file_that_ends_before_its_header_says_is_refused_in_every_format(tmp_path, name):
    soundfile.write(tmp_path / name, tone(440, 1.0), RATE)
    assert read(tmp_path / name, RATE)[0].samples == RATE
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
    with pytest.raises(CaseError, match=r"PTD-71[34] "):
        read(tmp_path / name, RATE)


def test_a_rate_at_which_nothing_is_heard_is_refused_before_hours_are_made_of_it(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(440, 1.0), 1)
    with pytest.raises(CaseError, match=r"PTD-718 a.wav: its header states 1 samples a second"):
        read_header(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("é,fold,category\n".encode("latin-1"), 2),
        (b"filename,fold,category\nb-1.wav\n", 2),
        (b"filename,fold,category\nb\x00-1.wav,1,dog\n", 4),
    ],
)
def test_a_table_that_is_none_is_one_sentence(esc, tmp_path, content, code):
    (esc / "meta.csv").write_bytes(content)
    done, _ = prepare(esc, tmp_path)
    assert done.code == code
    assert re.match(r"PTD-72[36] ", done.sentence())


def test_ids_that_end_in_a_number_clash_with_none(tmp_path):
    for number, name in enumerate(("a.wav", "a.flac", "a-2.wav")):
        (tmp_path / "raw" / "dog").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "raw" / "dog" / name, tone(440, 0.5, seed=number), RATE)
    (tmp_path / "params.yaml").write_text("prepare: {split: {train: 1.0}}\n")
    assert prepare(tmp_path / "raw", tmp_path)[0].code == 0
    assert sorted(case.id for case in read_cases(tmp_path / "out" / "cases.jsonl")) == ["dog_a", "dog_a-2", "dog_a-3"]


def test_an_event_that_ends_after_its_recording_is_refused_alone(tmp_path):
    (tmp_path / "audio").mkdir()
    for name in ("a", "b"):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", tone(400 if name == "a" else 500, 1.0), RATE)
    lines = ("filename\tonset\toffset\tevent_label", "a.wav\t0.5\t1.0\tdog", "b.wav\t0.5\t1.5\tdog")
    (tmp_path / "strong.tsv").write_text("".join(line + "\n" for line in lines))
    (tmp_path / "params.yaml").write_text("prepare: {layout: strong}\n")
    out = tmp_path / "out"
    done = call("audio", "prepare", tmp_path, "-o", out, "--params", tmp_path / "params.yaml")
    assert done.code == 3, done.err
    (refused,) = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    assert (refused["where"], refused["code"]) == ("audio/b.wav", "PTD-728")


@pytest.mark.parametrize("target", [{"labels": []}, {}])
def test_a_case_without_labels_cannot_be_trained_on(target, sounds):
    case = Case(id="x", files={"audio": str(next(sounds.rglob("*.wav")))}, target=target)
    with pytest.raises(CaseError, match="PTD-735"):
        Clips([case], ClipConfig(("high", "low"), RATE, RATE, exclusive=True))[0]
