"""Whatever a user feeds the command: one sentence with a code, and the rest goes on."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from command import call
from point_clouds.conftest import copy_sweep, write_bundle
from pyarrow import feather

from pentad.core.errors import CaseError, UsageError
from pentad.point_clouds.layouts import find_frames
from pentad.point_clouds.points import KITTI, Sweep, read, write

KITTI_LINE = "Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 1.50 1.80 4.10 0.47 1.49 20.44 {}\n"
TURN = np.array([[np.cos(0.8), -np.sin(0.8)], [np.sin(0.8), np.cos(0.8)]])
CALIB = "P2: 700 0 600 0 0 700 180 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"


def worklist(out):
    with (out / "r" / "worklist.csv").open() as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def test_every_broken_sweep_fails_alone_and_odd_ones_go_on(tmp_path, streets, bundle):
    folder, out = tmp_path / "in", tmp_path / "out"
    copy_sweep(streets, folder, "good.bin")
    sweep = read(folder / "good.bin")
    (folder / "empty.bin").write_bytes(b"")
    (folder / "cut.bin").write_bytes((folder / "good.bin").read_bytes()[:-5])
    np.full((50, 4), np.nan, np.float32).tofile(folder / "allnan.bin")
    np.column_stack([sweep.points, sweep.points[:, 0]])[:20000].astype(np.float32).tofile(folder / "five.bin")
    (sweep.points + np.float32([500, 0, 0, 0])).tofile(folder / "far.bin")
    (folder / "text.pcd").write_text("no cloud\n")
    some = sweep.points.copy()
    some[:10, 2] = np.nan
    some.tofile(folder / "somenan.bin")
    sweep.points.astype(">f4").tofile(folder / "bigendian.bin")
    write(folder / "ascii.pcd", sweep, "ascii")
    np.array([[5, 0, 0, 0.5], [-9, 3, 0, 0.5]], np.float32).tofile(folder / "two_points.bin")
    result = call("point-clouds", "predict", folder, "-o", out, "--run", "r", "--model", bundle, "--quiet")
    assert result.code == 3, result.err
    rows = worklist(out)
    codes = {
        "empty": "PTD-901",
        "cut": "PTD-904",
        "allnan": "PTD-902",
        "five": "PTD-905",
        "far": "PTD-908",
        "text": "PTD-903",
    }
    assert {name: row["code"] for name, row in rows.items() if row["status"] == "failed"} == codes
    assert all(row["reason"].endswith(".") for row in rows.values() if row["status"] == "failed")
    flags = {name: row["flags"] for name, row in rows.items() if row["status"] == "ok"}
    assert {name: flag for name, flag in flags.items() if name != "two_points"} == {
        "good": "",
        "somenan": "points_without_place",
        "bigendian": "big_endian",
        "ascii": "",
    }
    good, turned = (out / "r" / "cases" / name / "kitti.txt" for name in ("good", "bigendian"))
    assert good.read_text() == turned.read_text() != ""


def test_a_flatformer_takes_fewer_pillars_than_a_group(tmp_path):
    write_bundle(tmp_path / "b", "flatformer")
    few = Sweep(np.array([[5, 0, 0, 0.5], [-9, 3, 0, 0.5]], np.float32), ("x", "y", "z", "intensity"))
    write(tmp_path / "few.bin", few)
    result = call(
        "point-clouds", "predict", tmp_path / "few.bin", "-o", tmp_path / "out", "--run", "r", "--model",
        tmp_path / "b", "--quiet",
    )  # fmt: skip
    assert result.code == 0, result.err


def kitti(folder, *, calib=True, yaw="-1.56"):
    for part in ("velodyne", "label_2", "calib"):
        (folder / "training" / part).mkdir(parents=True, exist_ok=True)
    (folder / "training" / "label_2" / "000000.txt").write_text(KITTI_LINE.format(yaw))
    if calib:
        (folder / "training" / "calib" / "000000.txt").write_text(CALIB)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"calib": False}, "PTD-914", "labels but no calibration"),
        ({"yaw": "90.0"}, "PTD-912", "looks like degrees"),
        ({"yaw": "east"}, "PTD-915", "no KITTI object"),
    ],
)
def test_a_label_that_cannot_be_used_is_refused_by_name_and_the_others_go_on(
    tmp_path, streets, params, change, code, words
):
    kitti(tmp_path / "raw", **change)
    copy_sweep(streets, tmp_path / "raw" / "training" / "velodyne", "000000.bin")
    for name in ("000001", "000002"):
        copy_sweep(streets, tmp_path / "raw" / "training" / "velodyne", f"{name}.bin", 2)
        (tmp_path / "raw" / "training" / "label_2" / f"{name}.txt").write_text(KITTI_LINE.format("-1.56"))
        (tmp_path / "raw" / "training" / "calib" / f"{name}.txt").write_text(CALIB)
    result = call("point-clouds", "prepare", tmp_path / "raw", "-o", tmp_path / "p", "--params", params)
    assert result.code == 3, result.err
    assert result.out.startswith("2 frames, 1 refused")
    refused = json.loads((tmp_path / "p" / "rejected.jsonl").read_text())
    assert refused["code"] == code
    assert words in refused["reason"]
    assert refused["where"] == "training/velodyne/000000.bin"


@pytest.mark.parametrize(
    ("words", "exit_code", "code"),
    [
        (["predict", "nowhere", "--model", "{bundle}"], 2, "PTD-931"),
        (["predict", "{streets}", "--model", "nowhere/at/all"], 5, "PTD-930"),
        (["predict", "{streets}", "--model", "{bundle}", "--outputs", "kitty"], 2, "PTD-929"),
        (["predict", "{streets}", "--model", "{bundle}", "--range", "1,2,3"], 2, "PTD-923"),
        (["predict", "{streets}", "--model", "{bundle}", "--range", "wide"], 2, "PTD-923"),
        (["predict", "{empty}", "--model", "{bundle}"], 4, "PTD-917"),
        (["prepare", "{empty}", "--params", "{params}"], 4, "PTD-917"),
    ],
)
def test_a_wrong_call_is_answered_in_one_sentence(tmp_path, streets, bundle, params, words, exit_code, code):
    (tmp_path / "empty").mkdir()
    places = {"bundle": bundle, "streets": streets, "params": params, "empty": tmp_path / "empty"}
    result = call("point-clouds", *(word.format(**places) for word in words), "-o", tmp_path / "out")
    assert result.code == exit_code, result.err
    assert result.sentence().startswith(code)
    assert not (tmp_path / "out").exists()


def test_check_describes_good_data_and_names_what_is_wrong_with_bad(tmp_path, streets):
    good = call("point-clouds", "check", streets, "--json")
    assert good.code == 0, good.out
    facts = json.loads(good.out)
    assert (facts["frames"], facts["up"], facts["intensity"], facts["columns"][:3]) == (6, "z", 1.0, ["x", "y", "z"])
    assert -2.5 < facts["ground"] < -1.2
    assert facts["boxes"]["car"][1] > 5
    for change, words in {
        "bottom": "bottom face",
        "clockwise": "clockwise",
        "exchanged": "exchanged",
        "away": "hardly share a frame",
    }.items():
        folder = tmp_path / change
        shutil.copytree(streets, folder)
        if change == "clockwise":
            for path in (folder / "points").iterdir():
                points = np.fromfile(path, np.float32).reshape(-1, 4)
                points[:, :2] = points[:, :2] @ TURN.T.astype(np.float32)
                points.tofile(path)
        for path in (folder / "frames").iterdir():
            frame = json.loads(path.read_text())
            for box in frame["boxes"]:
                spoil(box, change)
            path.write_text(json.dumps(frame))
        bad = call("point-clouds", "check", folder)
        assert bad.code == 3, change
        assert words in bad.out, (change, bad.out)


def spoil(box, change):
    if change == "bottom":
        box["center"][2] -= box["size"][2] / 2
    elif change == "clockwise":
        # The street is turned, since along the axes a mirror image is the same.
        box["center"][:2] = (TURN @ box["center"][:2]).tolist()
        box["yaw"] = -box["yaw"] - 0.8
    elif change == "exchanged":
        box["size"][:2] = box["size"][1::-1]
    else:
        box["center"][0] += 300


def test_check_says_so_where_nothing_can_be_read(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"123")
    result = call("point-clouds", "check", tmp_path)
    assert result.code == 4
    assert result.sentence().startswith("PTD-932")


def test_a_camera_frame_is_noticed_by_its_vertical(tmp_path, streets):
    copy_sweep(streets, tmp_path, "a.bin")
    points = np.fromfile(tmp_path / "a.bin", np.float32).reshape(-1, 4)
    points[:, [1, 2, 0, 3]].tofile(tmp_path / "a.bin")
    result = call("point-clouds", "check", Path(tmp_path))
    assert result.code == 3
    assert "spread least along y" in result.out


@pytest.mark.parametrize(
    ("part", "old", "new", "code"),
    [
        ("label_2", "20.44", "nan", "PTD-915"),
        ("label_2", "1.50", "-1.50", "PTD-911"),
        ("calib", "R0_rect: 1", "R0_rect: 0", "PTD-914"),
        ("calib", "-1", "nan", "PTD-914"),
    ],
)
def test_numbers_of_kitti_that_give_no_place_are_refused(tmp_path, streets, part, old, new, code):
    kitti(tmp_path)
    copy_sweep(streets, tmp_path / "training" / "velodyne", "000000.bin")
    file = tmp_path / "training" / part / "000000.txt"
    file.write_text(file.read_text().replace(old, new))
    (found,) = find_frames(tmp_path)
    with pytest.raises(CaseError, match=f"^{code} 000000.txt"):
        found.read()


@pytest.mark.parametrize(
    ("file", "change", "code"),
    [
        ("annotations", {"length_m": "long"}, "PTD-916"),
        ("annotations", {"length_m": None}, "PTD-911"),
        ("city_SE3_egovehicle", {"timestamp_ns": None}, "PTD-918"),
        ("city_SE3_egovehicle", {"qw": 0.0}, "PTD-913"),
    ],
)
def test_columns_of_argoverse_that_give_no_place_are_refused(tmp_path, file, change, code):
    turn = {"qw": [1.0], "qx": [0.0], "qy": [0.0], "qz": [0.0]}
    held = {"timestamp_ns": [7], **turn, **{f"t{axis}_m": [1.0] for axis in "xyz"}}
    sides = {f"{side}_m": [2.0] for side in ("length", "width", "height")}
    tables = {
        "annotations": {**held, **sides, "num_interior_pts": [5], "category": ["BUS"]},
        "city_SE3_egovehicle": held,
    }
    (tmp_path / "sensors" / "lidar").mkdir(parents=True)
    for name, columns in tables.items():
        changed = {key: [value] for key, value in change.items()} if name == file else {}
        feather.write_feather(pyarrow.table({**columns, **changed}), tmp_path / f"{name}.feather")
    (tmp_path / "sensors" / "lidar" / "7.feather").write_bytes(b"")
    (found,) = find_frames(tmp_path)
    with pytest.raises(CaseError, match=f"^{code} "):
        found.read()


def damaged(good, name):
    """Bytes of a good file after what a bad copy or a lying header does to it."""
    header, rest = good[: good.find(b"\n", good.find(b"DATA")) + 1], good[good.find(b"\n", good.find(b"DATA")) + 1 :]
    return {
        "cut.ply": good[:-40],
        "cut_text.ply": b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
        b"property float z\nend_header\n1 2 3\n4 5\n",
        "vast.ply": good.replace(b"element vertex 20000", b"element vertex 2000000000"),
        "vast.npy": good.replace(b"(20000, ", b"(90000000000, "),
        "words.pcd": header.replace(b"POINTS 20000", b"POINTS many") + rest,
        "vast.las": good[:247] + (2**40).to_bytes(8, "little") + good[255:],
        "vast.laz": good[:247] + (2**40).to_bytes(8, "little") + good[255:],
        "records.las": good[:100] + b"\xff" * 4 + good[104:],
        "crc.npz": good[:90] + bytes(byte ^ 0xFF for byte in good[90:120]) + good[120:],
    }[name]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("cut.ply", "PTD-904"),
        ("cut_text.ply", "PTD-904"),
        ("vast.ply", "PTD-904"),
        ("vast.npy", "PTD-903"),
        ("words.pcd", "PTD-903"),
        ("vast.las", "PTD-904"),
        ("vast.laz", "PTD-904"),
        ("records.las", "PTD-903"),
        ("crc.npz", "PTD-903"),
    ],
)
def test_a_header_that_promises_too_much_is_not_believed(tmp_path, name, code):
    sweep = Sweep(np.random.default_rng(0).normal(0, 10, (20000, 4)).astype(np.float32), KITTI)
    write(tmp_path / name, sweep)
    (tmp_path / name).write_bytes(damaged((tmp_path / name).read_bytes(), name))
    with pytest.raises(CaseError, match=f"^{code} {name}: "):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "fields",
    [
        {"x": np.array(["a"]), "y": np.zeros(1), "z": np.zeros(1)},
        {"x": np.zeros(2), "y": np.zeros(2), "z": np.zeros((2, 2))},
    ],
)
def test_fields_that_are_no_numbers_of_a_point_are_refused(tmp_path, fields):
    kinds = [(name, values.dtype, values.shape[1:]) for name, values in fields.items()]
    rows = np.zeros(len(fields["x"]), dtype=kinds)
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(CaseError, match=r"PTD-905 a.npy: not one number a point"):
        read(tmp_path / "a.npy")


def test_places_beyond_what_single_precision_holds_count_as_none(tmp_path):
    places = np.array([[1, 2, 3, 0], [1e300, 2, 3, 0]])
    np.save(tmp_path / "a.npy", places)
    sweep = read(tmp_path / "a.npy")
    assert sweep.points.tolist() == [[1, 2, 3, 0]]
    assert sweep.notes == ("1 points without a finite place dropped",)


def test_frames_whose_names_cannot_be_ids_or_are_equal_get_ids_of_their_own(tmp_path, streets, bundle):
    folder = tmp_path / "velodyne"
    for name in ("a b.bin", "a_b.bin", "a_b-2.bin", "=x.bin"):
        copy_sweep(streets, folder, name)
    places = ("-o", tmp_path / "out", "--model", bundle, "--dry-run")
    done = call("point-clouds", "predict", tmp_path, *places)
    assert done.code == 0, done.err
    named = [line.split()[2] for line in done.out.splitlines() if line.startswith("would process")]
    assert sorted(named) == ["a_b", "a_b-2", "a_b-3", "x"]


@pytest.mark.parametrize(
    ("file", "content"), [("instance.json", '[{"token": 1}]'), ("sample.json", "[" * 100_000), ("sample.json", "[3]")]
)
def test_tables_of_nuscenes_that_are_none_are_one_sentence(tmp_path, file, content):
    tables = tmp_path / "v1.0-mini"
    tables.mkdir()
    for name in ("sample", "sample_data", "calibrated_sensor", "ego_pose", "sample_annotation", "instance", "category"):
        (tables / f"{name}.json").write_text("[]")
    (tables / file).write_text(content)
    with pytest.raises(UsageError, match="PTD-919"):
        find_frames(tmp_path)


def test_a_sweep_of_argoverse_without_a_time_for_its_name_is_refused_alone(tmp_path):
    folder = tmp_path / "log" / "sensors" / "lidar"
    folder.mkdir(parents=True)
    (folder / "copy.feather").write_bytes(b"")
    (found,) = find_frames(tmp_path)
    with pytest.raises(CaseError, match=r"PTD-918 copy.feather: its name is no time"):
        found.read()


def test_a_frame_file_that_names_what_no_file_can_be_called_is_refused(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.json").write_text('{"id": "a", "sweeps": [{"file": "a\\u0000.bin"}]}')
    with pytest.raises(CaseError, match="PTD-910"):
        find_frames(tmp_path)[0].read()
