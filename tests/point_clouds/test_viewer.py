"""What the window would show, and the sentence where there is none."""

import sys

import numpy as np
import pytest
from command import call
from point_clouds.conftest import copy_sweep

from pentad.core.errors import NoInputError
from pentad.point_clouds.frames import make_objects, read_frame
from pentad.point_clouds.outputs import EDGES, write_cloud
from pentad.point_clouds.points import read
from pentad.point_clouds.viewer import geometries

pytest.importorskip("open3d")


def test_a_labelled_frame_shows_its_points_and_an_edge_set_for_each_box(streets):
    path = streets / "frames" / "street-001.json"
    frame = read_frame(path)
    cloud, lines = geometries(path)
    assert len(cloud.points) == len(read(frame.path(0), frame.sweeps[0].columns).points)
    assert len(lines.lines) == len(EDGES) * len(frame.boxes)
    box = frame.boxes[0]
    centre = np.asarray(lines.points)[:8].mean(axis=0)
    assert np.allclose(centre, box.center)
    lengths = np.linalg.norm(np.diff(np.asarray(lines.points)[np.asarray(lines.lines)[:12]], axis=1)[:, 0], axis=1)
    assert np.allclose(np.unique(lengths.round(6)), np.unique(np.round(box.size, 6)), atol=1e-5)


def test_a_sweep_alone_and_a_cases_folder_show_their_points(tmp_path, streets):
    copy_sweep(streets, tmp_path / "plain", "a.bin")
    [cloud] = geometries(tmp_path / "plain")
    assert len(cloud.points) > 1000
    points = np.zeros((5, 5), dtype=np.float32)
    write_cloud(tmp_path, points, make_objects(np.zeros((0, 7)), ()), ("car",))
    [written] = geometries(tmp_path)
    assert len(written.points) == 5
    with pytest.raises(NoInputError, match="PTD-917"):
        geometries(tmp_path / "missing")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
@pytest.mark.parametrize("display", ["", ":4711"])
def test_without_a_display_the_command_says_so(streets, monkeypatch, display):
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    result = call("point-clouds", "view", streets / "frames" / "street-001.json")
    assert (result.code, result.sentence()[:7]) == (2, "PTD-937")
