from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import median_filter

from pentad.audio.events import EventFinder, EventRules
from pentad.core.errors import UsageError

CLASSES = ("a", "b")


def find(track, rules, pieces=1):
    finder = EventFinder(CLASSES, 0.1, rules)
    found = []
    for piece in np.array_split(track, pieces):
        found += finder.add(piece)
    return sorted(found + finder.finish(), key=lambda event: (event.onset, event.label))


@pytest.mark.parametrize("pieces", [2, 7, 300])
def test_pieces_of_a_track_give_the_events_of_the_whole(pieces):
    track = np.random.default_rng(1).random((300, 2)).astype(np.float32)
    rules = EventRules(0.5, 0.5, 0.3, 0.2)
    assert find(track, rules, pieces) == find(track, rules)
    assert len(find(track, rules)) > 5


def test_the_filter_is_a_median_over_active_steps():
    track = np.random.default_rng(2).random((200, 1)).astype(np.float32)
    filtered = median_filter((track[:, 0] >= 0.5).astype(int), 5, mode="constant")
    found = find(np.concatenate([track, 0 * track], axis=1), EventRules(0.5, 0.4, 0.0, 0.0))
    active = np.zeros(200, int)
    for event in found:
        active[round(event.onset * 10) : round(event.offset * 10)] = 1
    assert np.array_equal(active, filtered)


def test_short_gaps_are_joined_and_short_events_dropped():
    track = np.zeros((40, 2), np.float32)
    track[5:10, 0], track[11:15, 0], track[30, 0] = 1.0, 0.9, 0.9
    (event,) = find(track, EventRules(0.5, 0.0, 0.15, 0.2))
    assert (event.onset, event.offset, event.label, event.peak) == (0.5, 1.4944, "a", pytest.approx(1.0))


def test_an_event_may_last_to_the_end():
    (event,) = find(np.full((10, 2), [0.9, 0.0], np.float32), EventRules(0.5, 0.3, 0.1, 0.1))
    assert (event.onset, event.offset) == (0.0, 1.0)


def test_impossible_rules_are_refused():
    with pytest.raises(UsageError, match="PTD-730"):
        EventRules(threshold=1.0)


def test_an_edge_lies_where_the_line_between_two_steps_crosses_the_threshold():
    track = np.zeros((10, 2), np.float32)
    track[3:6, 0] = (0.25, 0.75, 0.6)
    track[8:, 1] = 0.9
    first, second = find(track, EventRules(0.5, 0.0, 0.0, 0.0))
    # Steps of 0.1 s stand at their middles: 0.25 at 0.35 s, 0.75 at 0.45 s; 0.6 at 0.55 s, 0 at 0.65 s.
    assert (first.onset, first.offset) == (0.4, round(0.55 + 0.1 * (0.6 - 0.5) / 0.6, 4))
    assert (second.onset, second.offset) == (round(0.75 + 0.1 * 0.5 / 0.9, 4), 1.0)
