"""A scene that was interrupted goes on at the row of windows where it was, to the same bytes."""

import fcntl

import numpy as np
import pytest
import torch
from remote_sensing.rasters import picture, write_raster

from pentad.core.errors import CaseError
from pentad.remote_sensing.dataset import Scaling
from pentad.remote_sensing.differencing import difference_strips
from pentad.remote_sensing.legend import legends
from pentad.remote_sensing.maps import Drawn, draw, write_maps
from pentad.remote_sensing.models.fc_siam import FCSiamConc, FCSiamConfig
from pentad.remote_sensing.predict import Settings, TileConfig, change_strips
from pentad.remote_sensing.raster import PairConfig, open_pair
from pentad.remote_sensing.resume import drawn_strips, kept
from pentad.remote_sensing.tasks import TASKS

SCD = TASKS["scd"]
NAMES = (("a", "b", "c", "d", "e", "f"),) * 2


class Stopped(Exception):
    pass


class Scene:
    """A pair and a network of random weights, whose looked-at windows are counted."""

    def __init__(self, folder):
        paths = [write_raster(folder / f"{n}.tif", picture(rows=150, columns=90, seed=n)) for n in (0, 1)]
        self.context = open_pair(*paths)
        torch.manual_seed(0)
        self.network = FCSiamConc(FCSiamConfig((4, 8), heads=SCD.heads)).eval()
        self.settings = Settings(Scaling((99.0,) * 3, (50.0,) * 3), TileConfig(32), PairConfig(), "scd", NAMES)
        self.windows = 0
        self.network.register_forward_hook(lambda *_: setattr(self, "windows", self.windows + 1))

    def strips(self, pair, first=0):
        return change_strips(self.network, self.settings, torch.device("cpu"), pair, first)

    def maps(self, folder, place, stop_at=1.1):
        def tell(share):
            told.append(share)
            if share >= stop_at:
                raise Stopped

        told = []
        folder.mkdir(exist_ok=True)
        self.windows = 0
        with self.context as pair, kept(place) as own:
            strips = drawn_strips(self.strips, pair, lambda strip: draw(SCD, 0.5, strip), own, tell)
            write_maps(folder, strips, pair, legends(SCD, NAMES), {})
        assert told == sorted(told)
        return {path.name: path.read_bytes() for path in folder.glob("*.tif")}


def test_an_interrupted_scene_goes_on_to_the_same_bytes_without_looking_twice(tmp_path):
    whole = Scene(tmp_path)
    expected = whole.maps(tmp_path / "whole", tmp_path / "partial" / "a")
    with pytest.raises(Stopped):
        Scene(tmp_path).maps(tmp_path / "half", tmp_path / "partial" / "b", stop_at=0.6)
    again = Scene(tmp_path)
    assert again.maps(tmp_path / "again", tmp_path / "partial" / "b") == expected
    assert 0 < again.windows < 0.7 * whole.windows
    assert not (tmp_path / "partial").exists()


def test_a_kept_strip_that_is_damaged_is_found_again(tmp_path):
    scene, place = Scene(tmp_path), tmp_path / "partial" / "a"
    with pytest.raises(Stopped):
        scene.maps(tmp_path / "half", place, stop_at=0.6)
    sorted(place.glob("*.npz"))[1].write_bytes(b"PK")
    expected = Scene(tmp_path).maps(tmp_path / "whole", tmp_path / "partial" / "b")
    assert Scene(tmp_path).maps(tmp_path / "again", place) == expected


def test_a_pair_that_cannot_be_used_leaves_nothing_behind(tmp_path):
    with pytest.raises(CaseError), kept(tmp_path / "partial" / "a"):
        raise CaseError("PTD-852", "nothing valid", "check the files")
    assert not (tmp_path / "partial").exists()


def test_two_runs_on_one_pair_do_not_share_strips(tmp_path):
    (tmp_path / "a").mkdir()
    with (tmp_path / "a" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with kept(tmp_path / "a") as place:
            assert place is None
    assert (tmp_path / "a").is_dir()


def test_differencing_goes_on_too(tmp_path):
    paths = [write_raster(tmp_path / f"{n}.tif", picture(rows=1100, columns=20, seed=n)) for n in (0, 1)]
    with open_pair(*paths) as pair:
        whole, rest = list(difference_strips(pair)), list(difference_strips(pair, 512))
    assert [strip.start for strip in rest] == [512, 1024]
    assert all(np.array_equal(a.probability, b.probability) for a, b in zip(whole[1:], rest, strict=True))


def test_rows_are_counted_in_the_probability():
    assert Drawn(3, {"probability": np.zeros((5, 7), "uint8")}).rows == 5
