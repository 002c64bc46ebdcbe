from __future__ import annotations

import numpy as np
import pytest

from pentad.audio.windows import Stitcher, windows


def cut(samples, pieces):
    return np.split(samples, np.sort(np.random.default_rng(pieces).integers(0, len(samples) + 1, pieces)))


@pytest.mark.parametrize("length", [1, 5, 10, 11, 14, 15, 29, 30, 31, 100])
@pytest.mark.parametrize("pieces", [0, 3, 20])
def test_windows_cover_every_sample_and_hold_what_they_say(length, pieces):
    samples = np.arange(length, dtype=np.float32)
    found = list(windows(cut(samples, pieces), 10, 5))
    seen = np.zeros(length, bool)
    for window in found:
        assert np.array_equal(window.samples, samples[window.start : window.start + len(window.samples)])
        seen[window.start : window.start + len(window.samples)] = True
    assert seen.all()
    assert {len(window.samples) for window in found} == {min(length, 10)}


def test_windows_as_long_as_their_hop_leave_nothing_out():
    assert [window.start for window in windows([np.zeros(25, np.float32)], 10, 10)] == [0, 10, 15]


@pytest.mark.parametrize("length", [7, 10, 23, 40])
def test_scores_that_agree_are_blended_to_themselves(length):
    truth = np.sin(np.arange(60.0))[:, None].astype(np.float32)
    stitcher, parts = Stitcher(1.0), []
    for window in windows([np.zeros(length, np.float32)], 10, 4):
        parts.append(stitcher.add(window.start, truth[window.start : window.start + 10]))
    track = np.concatenate([part for part in [*parts, stitcher.finish(length)] if len(part)])
    assert track == pytest.approx(truth[:length], abs=1e-6)


def test_the_stitcher_holds_no_more_than_two_windows():
    stitcher = Stitcher(1.0)
    for start in range(0, 5000, 5):
        stitcher.add(start, np.ones((10, 3), np.float32))
        assert len(stitcher._weight) <= 20
