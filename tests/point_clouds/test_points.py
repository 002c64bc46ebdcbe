"""Every format of point clouds: what is written comes back, and what is broken is refused in one sentence."""

import numpy as np
import pytest

from pentad.core.errors import CaseError
from pentad.point_clouds.points import NUSCENES, Sweep, intensity_scale, read, thinned, within, write


def cloud(count=2000, columns=("x", "y", "z", "intensity"), seed=0):
    """A scan: neighbours in the file are neighbours in space."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 40 * np.pi, count)
    places = [20 * np.cos(angle), 20 * np.sin(angle), angle / 60 - 1.7]
    rest = {"intensity": rng.random(count), "ring": np.arange(count) // 200, "time": angle / 1000, "elongation": angle}
    table = np.stack([*places, *(rest[name] for name in columns[3:])], axis=1)
    return Sweep(np.round(table, 3).astype(np.float32), tuple(columns))


@pytest.mark.parametrize(
    ("name", "encoding", "columns", "error"),
    [
        ("a.bin", "", ("x", "y", "z", "intensity"), 0),
        ("a.pcd.bin", "", NUSCENES, 0),
        ("a.npy", "", ("x", "y", "z", "intensity"), 0),
        ("a.npz", "", ("x", "y", "z", "intensity", "time", "elongation", "ring"), 0),
        ("a.pcd", "binary", ("x", "y", "z", "intensity", "ring"), 0),
        ("a.pcd", "ascii", ("x", "y", "z", "intensity", "ring"), 1e-5),
        ("a.pcd", "binary_compressed", ("x", "y", "z", "intensity", "ring"), 0),
        ("a.las", "", ("x", "y", "z", "ring"), 1e-3),
        ("a.laz", "", ("x", "y", "z", "ring"), 1e-3),
        ("a.feather", "", ("x", "y", "z", "intensity", "time", "ring"), 1e-6),
    ],
)
def test_what_is_written_comes_back(tmp_path, name, encoding, columns, error):
    sweep = cloud(columns=columns)
    write(tmp_path / name, sweep, encoding or "binary")
    again = read(tmp_path / name)
    assert (again.columns, again.notes) == ((*sweep.columns[:3], *(c for c in again.columns[3:])), ())
    for column in sweep.columns:
        assert np.abs(again.column(column) - sweep.column(column)).max() <= error


def test_a_ply_comes_back_by_open3d_with_its_intensity(tmp_path):
    pytest.importorskip("open3d", exc_type=ImportError)
    write(tmp_path / "a.ply", cloud())
    again = read(tmp_path / "a.ply")
    assert np.array_equal(again.points, cloud().points)


def test_open3ds_own_pcd_files_are_read(tmp_path):
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    made = o3d.t.geometry.PointCloud(o3d.core.Tensor(cloud().xyz))
    made.point["intensity"] = o3d.core.Tensor(cloud().column("intensity")[:, None])
    for name, options in {"ascii": {"write_ascii": True}, "binary": {}, "packed": {"compressed": True}}.items():
        o3d.t.io.write_point_cloud(str(tmp_path / f"{name}.pcd"), made, **options)
        again = read(tmp_path / f"{name}.pcd")
        assert np.abs(again.column("intensity") - cloud().column("intensity")).max() < 1e-6
        assert np.abs(again.xyz - cloud().xyz).max() < 1e-4


def test_points_without_a_place_are_dropped_and_counted(tmp_path):
    points = cloud().points.copy()
    points[:7, 1] = np.nan
    points[7, 0] = np.inf
    points[8, 3] = np.nan
    points.tofile(tmp_path / "a.bin")
    sweep = read(tmp_path / "a.bin")
    assert len(sweep.points) == 1992
    assert sweep.notes == ("8 points without a finite place dropped",)
    assert sweep.points[0, 3] == 0


def test_bytes_the_other_way_round_are_noticed_and_turned(tmp_path):
    cloud().points.astype(">f4").tofile(tmp_path / "a.bin")
    write(tmp_path / "a.pcd", cloud())
    content = (tmp_path / "a.pcd").read_bytes()
    head = content.index(b"DATA binary\n") + 12
    (tmp_path / "a.pcd").write_bytes(content[:head] + cloud().points.astype(">f4").tobytes())
    for name in ("a.bin", "a.pcd"):
        sweep = read(tmp_path / name)
        assert sweep.notes == ("read as big-endian",)
        assert np.array_equal(sweep.points, cloud().points)


def test_map_coordinates_keep_their_millimetres(tmp_path):
    sweep = cloud(columns=("x", "y", "z"))
    moved = Sweep(sweep.points, sweep.columns, origin=(636000.0, 849000.0, 400.0))
    write(tmp_path / "a.las", moved)
    again = read(tmp_path / "a.las")
    whole = again.xyz.astype(float) + again.origin
    assert np.abs(whole - sweep.xyz.astype(float) - moved.origin).max() < 1e-3
    assert again.notes == ("map coordinates moved to their middle",)


def broken(folder):
    """Files that cannot be used, by the code they are refused with."""
    whole = cloud().points
    (folder / "empty.bin").write_bytes(b"")
    (folder / "nan.bin").write_bytes(np.full((9, 4), np.nan, np.float32).tobytes())
    (folder / "cut.bin").write_bytes(whole.tobytes()[:-3])
    (folder / "five.bin").write_bytes(cloud(columns=NUSCENES, count=1999).points.tobytes())
    (folder / "five_too.bin").write_bytes(cloud(columns=NUSCENES).points.tobytes())
    (folder / "a.xyz").write_text("1 2 3\n")
    (folder / "words.npy").write_text("no array")
    np.save(folder / "wide.npy", np.zeros((5, 9)))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(folder / "fields.npz", a=np.zeros(3), b=np.zeros(3))
    (folder / "words.npz").write_text("no archive")
    (folder / "words.pcd").write_text("no cloud\n")
    head = "VERSION 0.7\nFIELDS {}\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA {}\n"
    (folder / "field.pcd").write_text(head.format("x y intensity", "ascii") + "1 2 3\n4 5 6\n")
    (folder / "short.pcd").write_text(head.format("x y z", "ascii") + "1 2 3\n")
    (folder / "text.pcd").write_text(head.format("x y z", "ascii") + "one two three\n")
    (folder / "none.pcd").write_text(head.replace("POINTS 2", "POINTS 0").format("x y z", "ascii"))
    (folder / "cut.pcd").write_bytes(head.format("x y z", "binary").encode() + b"1234")
    (folder / "words.ply").write_text("no mesh")
    (folder / "none.ply").write_text("ply\nformat ascii 1.0\nelement vertex 0\nend_header\n")
    lines = (
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty {0} x\nproperty {0} y\nproperty {0} {1}\nend_header\n1 2 3\n"
    )
    (folder / "flat.ply").write_text(lines.format("float", "w"))
    (folder / "whole.ply").write_text(lines.format("int", "z"))
    (folder / "none.las").write_bytes(b"")
    (folder / "words.las").write_text("no survey" * 50)
    write(folder / "cut.laz", cloud())
    (folder / "cut.laz").write_bytes((folder / "cut.laz").read_bytes()[:-900])
    (folder / "words.feather").write_text("no table")
    return {
        "empty.bin": "PTD-901",
        "nan.bin": "PTD-902",
        "cut.bin": "PTD-904",
        "five.bin": "PTD-905",
        "five_too.bin": "PTD-905",
        "a.xyz": "PTD-900",
        "words.npy": "PTD-903",
        "wide.npy": "PTD-905",
        "objects.npy": "PTD-903",
        "fields.npz": "PTD-906",
        "words.npz": "PTD-903",
        "words.pcd": "PTD-903",
        "field.pcd": "PTD-906",
        "short.pcd": "PTD-904",
        "text.pcd": "PTD-903",
        "none.pcd": "PTD-901",
        "cut.pcd": "PTD-904",
        "words.ply": "PTD-903",
        "none.ply": "PTD-901",
        "flat.ply": "PTD-906",
        "whole.ply": "PTD-905",
        "none.las": "PTD-904",
        "words.las": "PTD-903",
        "cut.laz": "PTD-90[34]",
        "words.feather": "PTD-903",
        "missing.bin": "PTD-903",
    }


def test_every_broken_file_is_refused_in_one_sentence(tmp_path):
    for name, code in broken(tmp_path).items():
        with pytest.raises(CaseError, match=rf"^{code} {name}: .+; .+\.$"):
            read(tmp_path / name)


def test_no_point_in_the_range_is_said():
    with pytest.raises(CaseError, match=r"PTD-908 .*all 2000 points lie outside the range x, y, z of 100"):
        within(cloud(), (100, 100, 0), (200, 200, 1))
    assert len(within(cloud(), (0, 0, -5), (50, 50, 5)).points) == 501


def test_thinning_keeps_so_many_points_of_the_whole_turn():
    few = thinned(cloud(), 100)
    assert len(few.points) == 100
    assert few.points[0, 2] == pytest.approx(-1.7, abs=0.01)
    assert few.points[-1, 2] > 0.3
    assert few.notes == ("1900 points thinned out",)
    assert thinned(cloud(), 0).notes == ()


@pytest.mark.parametrize(("largest", "scale"), [(0.4, 1), (1, 1), (3, 255), (255, 255), (300, 65535)])
def test_the_intensity_scale_is_the_smallest_that_holds_the_largest_value(largest, scale):
    assert intensity_scale(np.array([0, largest])) == scale
