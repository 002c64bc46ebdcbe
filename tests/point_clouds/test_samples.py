"""The embedded sweeps: their bytes, their frames, boxes and returns, and Open3D's opinion of the rays."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pentad.point_clouds.lidar import SENSORS, Sensor, cast, directions, scan
from pentad.point_clouds.samples import COUNT, EARLIER_OF, write, write_frame
from pentad.point_clouds.scene import CLASSES, Scene, Solid, build, turn

DIGEST = Path(__file__).parents[1] / "reference" / "samples_point_clouds.sha256"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    write(root)
    return root / "point_clouds" / "streets"


def digest_tree(folder):
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return whole.hexdigest()


def frames(samples):
    return [json.loads(path.read_text()) for path in sorted((samples / "frames").iterdir())]


def points_of(samples, sweep):
    return np.fromfile(samples / "frames" / sweep["file"], "<f4").reshape(-1, 4).astype(float)


def inside(points, box, margin):
    c, s = np.cos(box["yaw"]), np.sin(box["yaw"])
    local = (points[:, :3] - box["center"]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return (np.abs(local) <= np.array(box["size"]) / 2 + margin).all(axis=1)


def test_all_bytes_are_those_of_the_stored_digest(samples):
    assert digest_tree(samples) == DIGEST.read_text().strip()


def test_writing_a_frame_again_gives_the_same_bytes(samples, tmp_path):
    write_frame(tmp_path, 8)
    again = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("street*")}
    assert len(again) == 4
    assert all((samples / path).read_bytes() == content for path, content in again.items())


def test_the_folder_stays_below_40_megabytes(samples):
    assert len(frames(samples)) == COUNT
    assert sum(path.stat().st_size for path in samples.rglob("*") if path.is_file()) < 40e6


def test_every_point_is_a_whole_millimetre_with_an_intensity_of_0_to_1(samples):
    points = points_of(samples, frames(samples)[3]["sweeps"][0])
    assert np.abs(points[:, :3] * 1000 - np.round(points[:, :3] * 1000)).max() < 0.01
    assert 0 <= points[:, 3].min() < 0.1 < 0.5 < points[:, 3].max() <= 1


def test_all_classes_stand_in_most_frames_and_their_returns_lie_in_their_boxes(samples):
    counts = dict.fromkeys(CLASSES, 0)
    for frame in frames(samples)[::6]:
        points = points_of(samples, frame["sweeps"][0])
        for box in frame["boxes"]:
            counts[box["class"]] += 1
            found = inside(points, box, 0.08).sum()  # four deviations of the range
            assert box["points"] * 0.99 - 1 <= found <= box["points"] + 12 + box["points"] // 4  # and some ground
    assert counts["car"] > counts["pedestrian"] > 15
    assert counts["cyclist"] > 15


def test_boxes_stand_on_the_ground_and_none_overlaps_another(samples):
    for frame in frames(samples)[::9]:
        centres = np.array([box["center"][:2] for box in frame["boxes"]])
        gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 10 * np.eye(len(centres))
        assert gaps.min() > 0.9
        floor = [box["center"][2] - box["size"][2] / 2 for box in frame["boxes"]]
        assert -3.8 < min(floor) < max(floor) < 0.5


def test_an_earlier_sweep_comes_into_the_frame_of_the_first_by_its_pose(samples):
    frame = frames(samples)[EARLIER_OF - 1]
    assert [sweep["time"] for sweep in frame["sweeps"]] == [0.0, -0.1, -0.2]
    first = points_of(samples, frame["sweeps"][0])[:, :3]
    for sweep in frame["sweeps"][1:]:
        pose = np.array(sweep["pose"])
        moved = points_of(samples, sweep)[:, :3] @ pose[:3, :3].T + pose[:3, 3]
        for box in (box for box in frame["boxes"] if box["points"] > 150):
            shift = np.append(np.array(box["velocity"]) * sweep["time"], 0)
            there = inside(moved - shift, box, 0.15).sum()
            assert there > 0.6 * box["points"]
    assert len(first) > 10000


def test_drop_out_loses_at_least_three_percent_and_noise_is_two_centimetres():
    scene, sensor = build(2), SENSORS["beams64"]
    distance, *_ = cast(scene, sensor)
    returns = scan(scene, sensor, 2)
    lost = 1 - len(returns.points) / np.isfinite(distance).sum()
    assert 0.03 < lost < 0.12
    quiet = scan(scene, Sensor(64, 400, sensor.top, sensor.bottom, noise=0, dropout=0), 2)
    rest = Sensor(64, 400, sensor.top, sensor.bottom, dropout=0)
    error = np.linalg.norm(scan(scene, rest, 2).points, axis=1) - np.linalg.norm(quiet.points, axis=1)
    assert 17 < error.std() < 23


def test_turn_is_a_cosine_and_a_sine():
    angles = np.linspace(-7, 7, 500)
    assert np.abs([np.subtract(turn(a), (np.cos(a), np.sin(a))) for a in angles]).max() < 1e-15


def test_the_analytic_rays_agree_with_open3ds_ray_caster():
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    scene, sensor = build(5), SENSORS["beams32"]
    boxes = Scene(scene.slope, tuple(solid for solid in scene.solids if not solid.cylinder), scene.things)
    world = o3d.t.geometry.RaycastingScene()
    world.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(ground(boxes, o3d)))
    for solid in boxes.solids:
        world.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh(solid, o3d)))
    distance, hit, cosine, _ = cast(boxes, sensor)
    rays = np.moveaxis(directions(sensor), 0, -1)
    both = np.concatenate([np.zeros_like(rays), rays], axis=-1).astype(np.float32)
    answer = world.cast_rays(o3d.core.Tensor(both))
    theirs, number = answer["t_hit"].numpy(), answer["geometry_ids"].numpy().astype(np.int64) - 1
    near = theirs < 0.999 * sensor.reach
    same = near & np.isfinite(distance) & (hit == number)
    assert same.sum() > 0.999 * near.sum()  # rays along an edge may go either way
    assert np.abs(distance[same] - theirs[same]).max() < 2e-3
    normals = np.abs((answer["primitive_normals"].numpy() * rays).sum(-1))
    assert np.quantile(np.abs(cosine[same] - normals[same]), 0.999) < 1e-3


def ground(scene: Scene, o3d):
    corners = [(x, y, scene.ground(x, y)) for x, y in ((-99, -99), (99, -99), (99, 99), (-99, 99))]
    return o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(corners), o3d.utility.Vector3iVector([(0, 1, 2), (0, 2, 3)])
    )


def mesh(solid: Solid, o3d):
    length, width, height = (2 * half for half in solid.half)
    box = o3d.geometry.TriangleMesh.create_box(length, width, height)
    box.translate([-length / 2, -width / 2, -height / 2])
    c, s = solid.heading
    box.rotate(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), center=(0, 0, 0))
    return box.translate(solid.centre)
