"""Counting and looking up connected parts: NumPy's answers at the memory of one plane."""

import tracemalloc

import numpy as np
import pytest

from pentad.medical.parts import of_parts, part_sizes


@pytest.fixture
def parts():
    return np.random.default_rng(0).integers(0, 9, (24, 60, 50), dtype=np.int32)


def test_sizes_are_those_of_a_count_over_all(parts):
    mask = parts % 2 == 0
    assert np.array_equal(part_sizes(parts, 10), np.bincount(parts.ravel(), minlength=11))
    assert np.array_equal(part_sizes(parts, 10, mask), np.bincount(parts[mask], minlength=11))


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_every_voxel_gets_the_value_of_its_part(parts, kind):
    values = np.arange(9).astype(kind)
    assert np.array_equal(of_parts(values, parts), values[parts])
    assert of_parts(values, parts).dtype == kind


def test_neither_takes_a_copy_of_the_parts(parts):
    tracemalloc.start()
    part_sizes(parts, 8)
    of_parts(np.zeros(9, np.uint8), parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < parts.nbytes / 2
