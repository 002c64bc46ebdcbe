"""A recording of many windows, killed in its middle: the next start goes on there and delivers the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from audio.conftest import RATE, tone, untrained
from command import call

from pentad.audio.keeping import KeptScores, Scored
from pentad.audio.predict import load_tagger

MINUTES = 2
OUTPUTS = ("--outputs", "csv,json,audacity,embeddings", "--quiet")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Two minutes, two tones in turns."""
    parts = [tone(400 if second % 7 else 2500, 1.0, seed=second % 13) for second in range(60 * MINUTES)]
    path = tmp_path_factory.mktemp("long") / "long.flac"
    soundfile.write(path, np.concatenate(parts), RATE)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ast", "hts_at", "passt"])
def test_a_run_killed_in_mid_file_goes_on_there_with_the_same_bits(name, long, tmp_path):
    bundle = untrained(name, tmp_path / "bundle")
    assert call("audio", "predict", long, "-o", tmp_path, "--model", bundle, "--run", "whole", *OUTPUTS).code == 0
    command = [sys.executable, "-m", "pentad.core", "audio", "predict", long, "-o", tmp_path, "--model", bundle]
    process = subprocess.Popen(list(map(str, [*command, "--run", "cut", *OUTPUTS])), start_new_session=True)
    limit = time.monotonic() + 300
    while len(pieces(tmp_path)) < 5:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 5 <= len(pieces(tmp_path)) < 2 * 60 * MINUTES // 8
    assert call("audio", "predict", long, "-o", tmp_path, "--model", bundle, "--resume", "cut", *OUTPUTS).code == 0
    whole, cut = (
        {path.name: path.read_bytes() for path in (tmp_path / run / "cases" / "long.flac").iterdir()}
        for run in ("whole", "cut")
    )
    assert whole == cut
    assert json.loads(cut["result.json"])["windows"] == 2 * 60 * MINUTES - 1
    assert not (tmp_path / "cut" / ".kept").exists()


def pieces(out):
    return sorted(path for path in out.glob("cut/.kept/*/*/*.safetensors") if not path.name.startswith("."))


def test_what_was_kept_is_not_computed_again(long, bundle, tmp_path):
    tagger, kept = load_tagger(str(bundle)), KeptScores(tmp_path)
    first = tagger.run(long, kept=kept)
    tagger.model.forward = lambda features: pytest.fail("the model was asked again")
    second = tagger.run(long, kept=kept)
    assert np.array_equal(first.mean, second.mean)
    assert first.events == second.events


def test_half_a_file_of_scores_counts_as_none(long, bundle, tmp_path):
    tagger, kept = load_tagger(str(bundle)), KeptScores(tmp_path)
    first = tagger.run(long, kept=kept)
    file = sorted(tmp_path.iterdir())[3]
    file.write_bytes(file.read_bytes()[:-10])
    assert np.array_equal(first.mean, tagger.run(long, kept=kept).mean)
    assert kept.get(3) is not None
    assert kept.get(3).clip.dtype == torch.float32


def test_strided_scores_and_views_of_each_other_are_kept(tmp_path):
    steps = torch.rand(2, 3, 5).transpose(1, 2)
    scored = Scored(clip=steps[:, 0], steps=steps, embedding=torch.rand(4, 2).T)
    kept = KeptScores(tmp_path)
    kept.put(0, scored)
    found = kept.get(0)
    assert all(torch.equal(had, given) for had, given in zip(found, scored, strict=True))
    assert kept.get(1) is None
