"""The embedded pairs: their bytes, what they promise of labels, clouds and misregistration."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pentad.remote_sensing.samples import COUNT, write, write_scene
from pentad.remote_sensing.scenes import CLASSES, GRADES, SIDE, build

DIGEST = Path(__file__).parents[1] / "reference" / "samples_remote_sensing.sha256"
LABELS = {
    "label": {"unchanged", "changed"},
    "cover_before": {"none", "bare", "grass", "crop", "building"},  # roads and water stay
    "cover_after": {"none", "bare", "grass", "building"},
    "damage": set(GRADES),
}
NAMES = {"label": ("unchanged", "changed"), "cover_before": CLASSES, "cover_after": CLASSES, "damage": GRADES}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    write(root)
    return root / "remote_sensing" / "building_change"


def digest_tree(folder):
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return whole.hexdigest()


def read(samples, role):
    images = []
    for path in sorted((samples / role).iterdir()):
        with rasterio.open(path) as source:
            images.append(source.read().squeeze())
    return images


@pytest.mark.slow
def test_all_bytes_are_those_of_the_stored_digest(samples):
    assert digest_tree(samples) == DIGEST.read_text().strip()


def test_writing_a_scene_again_gives_the_same_bytes(samples, tmp_path):
    write_scene(tmp_path, 8)
    again = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.tif")}
    assert len(again) == 6
    assert all((samples / path).read_bytes() == content for path, content in again.items())


def test_the_folder_holds_64_scenes_within_20_megabytes(samples):
    assert {len(list((samples / role).iterdir())) for role in ("A", "B", *LABELS)} == {COUNT} == {64}
    assert sum(path.stat().st_size for path in samples.rglob("*") if path.is_file()) < 20e6


def test_the_files_name_no_library(samples):
    content = (samples / "A" / "scene-001.tif").read_bytes()
    assert not any(word in content for word in (b"GDAL", b"tifffile", b"rasterio"))


def test_every_scene_has_a_place_and_all_its_rasters_share_it(samples):
    for path in sorted((samples / "A").iterdir()):
        with rasterio.open(path) as first:
            grid = first.crs, first.transform, first.shape
            assert first.crs.is_projected
        for role in ("B", *LABELS):
            with rasterio.open(samples / role / path.name) as other:
                assert (other.crs, other.transform, other.shape) == grid


@pytest.mark.parametrize(("role", "classes"), LABELS.items())
def test_labels_hold_their_classes_and_nothing_else(samples, role, classes):
    *found, unknown = np.unique(np.stack(read(samples, role)))
    assert {NAMES[role][number] for number in found} == classes
    assert unknown == 255


def test_buildings_appear_vanish_or_are_destroyed_in_nearly_every_scene(samples):
    shares = np.array([(label == 1).mean() for label in read(samples, "label")])
    assert (shares > 0).mean() > 0.9
    assert 0.02 < shares.mean() < 0.08


def test_where_the_land_cover_is_not_told_nothing_changed(samples):
    for before, after in zip(read(samples, "cover_before"), read(samples, "cover_after"), strict=True):
        assert np.array_equal(before == 0, after == 0)
        known = (before > 0) & (before < 255)
        assert (before != after)[known].all()


def test_every_fourth_second_date_has_clouds_and_its_labels_do_not_know_what_is_below(samples):
    clouded = [(image == 0).all(axis=0) for image in read(samples, "B")]
    assert np.mean([cloud.any() for cloud in clouded]) > 0.15
    assert not any(cloud.any() for number, cloud in enumerate(clouded, 1) if number % 4)
    assert all((label[cloud] == 255).all() for label, cloud in zip(read(samples, "label"), clouded, strict=True))


def test_the_second_date_is_misregistered_in_most_scenes_by_at_most_a_pixel():
    shifts = []
    for number in (1, 2, 3, 5, 6, 7):
        scene = build(number)
        first, second = (image[..., 1].astype(float) for image in (scene.before, scene.after))
        inner = first[2:-2, 2:-2]
        scores = {
            (row, column): np.corrcoef(inner.ravel(), np.roll(second, (row, column), (0, 1))[2:-2, 2:-2].ravel())[0, 1]
            for row in (-2, -1, 0, 1, 2)
            for column in (-2, -1, 0, 1, 2)
        }
        shifts.append(max(scores, key=scores.get))
    assert np.abs(shifts).max() == 1
    assert len(set(shifts)) > 2


def test_differencing_does_not_find_the_change(samples):
    scores = []
    for before, after, label in zip(*(read(samples, role)[:16] for role in ("A", "B", "label")), strict=True):
        known = label < 255
        difference = np.abs(before.astype(float) - after).sum(0)
        found = difference > np.quantile(difference[known], 1 - (label == 1).sum() / known.sum())
        hits = (found & (label == 1)).sum()
        scores.append(2 * hits / (found[known].sum() + (label == 1).sum()))
    assert np.mean(scores) < 0.6


def test_scenes_csv_puts_the_earlier_date_first_and_neighbours_into_one_group(samples):
    rows = list(csv.DictReader((samples / "scenes.csv").open()))
    assert len(rows) == COUNT
    assert all(row["before"] < row["after"] for row in rows)
    assert 20 < len({row["group"] for row in rows}) < 40


def test_images_are_square_and_of_8_bits():
    scene = build(5)
    assert (scene.before.shape, scene.before.dtype) == ((SIDE, SIDE, 3), np.uint8)
