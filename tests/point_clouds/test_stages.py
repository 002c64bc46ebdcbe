"""The stages one after another on six small streets: twice the same, resumed, and what they promise to write."""

import csv
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from command import call, command
from point_clouds.conftest import write_bundle

from pentad.core.cases import read_cases
from pentad.core.errors import UsageError
from pentad.core.evaluation import read_rows
from pentad.point_clouds.evaluate import EvaluateConfig, score_frame, summarise
from pentad.point_clouds.frames import PointConfig, frame_of, load_points, make_objects, read_frame, to_objects
from pentad.point_clouds.infer import PredictRequest, _cases, _processor
from pentad.point_clouds.labels import read_kitti
from pentad.point_clouds.outputs import write_cloud
from pentad.point_clouds.points import read
from pentad.point_clouds.predict import Limits, load_predictor


@pytest.fixture
def prepared(tmp_path, streets, params):
    result = call("point-clouds", "prepare", streets, "-o", tmp_path / "p", "--params", params)
    assert (result.code, result.out.split(";")[0]) == (0, "6 frames, 0 refused")
    return tmp_path / "p" / "cases.jsonl"


def run(tmp_path, table, params, model, name=""):
    folder = tmp_path / (name or model)
    trained = call(
        "point-clouds", "train", table, "--model", model, "-o", folder / "b", "--run", folder / "r", "--params", params
    )
    assert trained.code == 0, trained.err
    scored = call("point-clouds", "evaluate", table, "--model", folder / "b", "-o", folder / model, "--params", params)
    assert scored.code == 0, scored.err
    return folder / model


def test_from_raw_sweeps_to_a_report(tmp_path, prepared, params):
    evaluations = [run(tmp_path, prepared, params, model) for model in ("flatformer", "point_pillars")]
    again = run(tmp_path, prepared, params, "flatformer", "again")
    first, second = ((folder / "metrics.json").read_bytes() for folder in (evaluations[0], again))
    assert first == second
    result = call("point-clouds", "report", prepared, *evaluations, "-o", tmp_path / "report")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert (metrics["data"], metrics["headline"]) == ("synthetic", "car_ap, mean_ap, nds")
    assert list(metrics["models"]) == ["flatformer", "point_pillars"]
    assert set(metrics["paired_difference"]["flatformer - point_pillars"]) == {
        "mean_ap",
        "car_ap",
        "pedestrian_ap",
        "cyclist_ap",
    }
    assert metrics["models"]["flatformer"]["car_ap"]["n"] == 3
    page = (tmp_path / "report" / "report" / "index.html").read_text()
    assert "Synthetic data" in page
    assert len((tmp_path / "report" / "report" / "per_case.csv").read_text().splitlines()) == 7
    assert {row.status for row in read_rows(evaluations[0] / "per_case.csv")} == {"ok"}


def test_the_case_table_counts_objects_and_frames_keep_their_numbers_of_points(prepared, streets):
    cases = {case.id: case for case in read_cases(prepared)}
    assert sum(case.split == "test" for case in cases.values()) == 3
    frame, raw = frame_of(cases["street-008"]), read_frame(streets / "frames" / "street-008.json")
    assert len(frame.sweeps) == 3
    assert np.array_equal(to_objects(frame).points, to_objects(raw).points)
    stated = cases["street-008"].target["objects"]
    assert stated == {kind: [box.kind for box in raw.boxes].count(kind) for kind in stated}


def test_a_table_is_not_replaced_unasked(prepared, streets, params):
    result = call("point-clouds", "prepare", streets, "-o", prepared.parent, "--params", params)
    assert (result.code, result.sentence()[:7]) == (2, "PTD-920")


def test_an_evaluation_is_replaced_when_asked_and_nothing_else_ever(tmp_path, prepared, params, bundle):
    given = ["point-clouds", "evaluate", prepared, "--model", bundle, "--params", params, "-o"]
    assert call(*given, tmp_path / "e").code == 0
    (tmp_path / "e" / "old.txt").touch()
    refused = call(*given, tmp_path / "e")
    assert (refused.code, refused.sentence()[:7]) == (2, "PTD-938")
    assert call(*given, tmp_path / "e", "--overwrite").code == 0
    assert not (tmp_path / "e" / "old.txt").exists()
    other = call(*given, prepared.parent, "--overwrite")
    assert (other.code, other.sentence()[:7]) == (2, "PTD-938")
    assert prepared.is_file()


def test_a_dry_run_says_that_the_model_is_damaged(tmp_path, streets):
    bundle = write_bundle(tmp_path / "bundle")
    given = ["point-clouds", "predict", streets, "-o", tmp_path / "out", "--model", bundle, "--dry-run"]
    assert call(*given).code == 0
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    result = call(*given)
    assert (result.code, result.sentence()[:4]) == (5, "PTD-")
    assert not (tmp_path / "out").exists()


def test_truth_as_detections_scores_one_and_a_jittered_copy_its_own_arithmetic(streets):
    truths = [to_objects(read_frame(path)) for path in sorted((streets / "frames").iterdir())]
    truths = [truth.take(truth.points > 0) for truth in truths]
    config = EvaluateConfig(resamples=20)
    classes = ("car", "pedestrian", "cyclist")
    same = summarise([score_frame(t, t, classes, config) for t in truths], list("abcdef"), config)
    assert same["mean_ap"]["value"] == pytest.approx(1)
    assert {same[f"{kind}_l2_aph"]["value"] for kind in classes} == {1.0}
    moved = [
        make_objects(t.boxes + np.array([0.7, 0, 0, 0, 0, 0, 0.1, 0, 0]), t.classes, points=t.points) for t in truths
    ]
    shifted = summarise(
        [score_frame(t, m, classes, config) for t, m in zip(truths, moved, strict=True)], [*"abcdef"], config
    )
    # All objects are further apart than that, so every one is found at 1 m and more, and none at 0.5 m.
    assert shifted["ap_by_distance"]["car"] == pytest.approx({"0.5": 0, "1.0": 1, "2.0": 1, "4.0": 1})
    assert shifted["errors"]["car"]["trans_err"] == pytest.approx(0.7)
    assert shifted["errors"]["car"]["orient_err"] == pytest.approx(0.1)
    assert shifted["errors"]["car"]["vel_err"] == 0


def test_predict_writes_every_output_and_the_stages_latency(tmp_path, streets, bundle):
    out = tmp_path / "out"
    result = call("point-clouds", "predict", streets, "-o", out, "--run", "r", "--model", bundle, "--quiet")
    assert result.code == 0, result.err
    with (out / "r" / "worklist.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert all(float(row[f"{stage}_ms"]) > 0 for row in rows for stage in ("read", "network", "decode", "write"))
    folder = out / "r" / "cases" / "street-001"
    assert {path.name for path in folder.iterdir()} == {
        "kitti.txt",
        "nuscenes.json",
        "cloud.ply",
        "page.html",
        "summary.json",
    }
    found = json.loads((folder / "nuscenes.json").read_text())["results"]["street-001"]
    lines = read_kitti(folder / "kitti.txt")
    assert len(found) == len(lines) == int(rows[[row["id"] for row in rows].index("street-001")]["objects"]) > 0
    # The nominal camera stands at the LiDAR: its z is our x, its x our -y.
    assert lines[0].bottom[2] == pytest.approx(found[0]["translation"][0], abs=1e-3)
    assert lines[0].bottom[0] == pytest.approx(-found[0]["translation"][1], abs=1e-3)
    assert "<svg" in (folder / "page.html").read_text()


def test_the_coloured_cloud_opens_in_open3d(tmp_path, streets, bundle):
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    predictor = load_predictor(str(bundle))
    found = predictor.detect(read_frame(streets / "frames" / "street-001.json"))
    write_cloud(tmp_path, found.points, found.objects, predictor.settings.classes)
    cloud = o3d.io.read_point_cloud(str(tmp_path / "cloud.ply"))
    assert len(cloud.points) == len(found.points) + 12 * 40 * len(found.objects)
    assert len(np.unique(np.asarray(cloud.colors), axis=0)) > 20


@pytest.mark.parametrize(
    ("limits", "least", "most"),
    [
        (Limits(max_points=500), 500, 500),
        (Limits(span=(-8, -8, -4, 8, 8, 2)), 1000, 15000),
        (Limits(span=(-99, -99, -99, 99, 99, 99)), 15000, 20000),
    ],
)
def test_a_range_and_a_number_of_points_limit_what_is_seen(streets, bundle, limits, least, most):
    found = load_predictor(str(bundle), limits=limits).detect(read_frame(streets / "frames" / "street-001.json"))
    assert least <= len(found.points) <= most


def test_a_range_beside_the_models_is_refused(bundle):
    with pytest.raises(UsageError, match="PTD-923 the range lies outside the model's"):
        load_predictor(str(bundle), limits=Limits(span=(100, 0, 0, 120, 9, 1)))


def test_labels_are_not_passed_on_to_a_prediction(streets, bundle):
    request = PredictRequest((streets,), str(bundle))
    cases, _ = _cases(request)
    assert len(cases) == 6
    assert all(not {"frame", "label"} & case.files.keys() and "boxes" not in case.target["frame"] for case in cases)


def test_several_sweeps_are_merged_by_their_poses(streets):
    frame = read_frame(streets / "frames" / "street-008.json")
    span = (-32, -32, -4, 32, 32, 2.4)
    one, _ = load_points(frame, PointConfig(sweeps=1), span)
    three, _ = load_points(frame, PointConfig(sweeps=3), span)
    far, _ = load_points(frame, PointConfig(sweeps=3, near=10), span)
    assert set(np.unique(three[:, 4])) == {0, -1, -2}
    assert np.array_equal(three[: len(one), :4], one[:, :4])
    assert len(one) < len(far) < len(three)
    # A wall seen a turn before stands where it stands now, once the pose has moved it.
    before = three[three[:, 4] == -2, :3]
    tall_now, tall_before = (places[places[:, 2] > 1] for places in (one[:, :3], before))
    gaps = np.linalg.norm(tall_before[:, None] - tall_now[None], axis=2).min(axis=1)
    raw = read(frame.path(2)).xyz
    still = np.linalg.norm(raw[raw[:, 2] > 1][:, None] - tall_now[None], axis=2).min(axis=1)
    assert np.median(gaps) < 0.8 * np.median(still)


def test_memory_follows_the_largest_sweep_and_not_their_number(tmp_path, streets, bundle):
    request = PredictRequest((streets,), str(bundle), outputs="kitti,nuscenes,ply")
    process, (cases, _) = _processor(request, "config"), _cases(request)
    sizes = []
    for number in range(40):
        case = cases[number % len(cases)]
        (tmp_path / str(number)).mkdir()
        process(case, tmp_path / str(number))
        sizes.append(int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024)
    assert sizes[-1] - sizes[9] < 10  # MB; one sweep's points, maps and copies take more


@pytest.mark.slow
def test_a_hundred_sweeps_killed_and_resumed_lose_nothing(tmp_path, streets, bundle):
    folder = tmp_path / "in"
    folder.mkdir()
    points = np.fromfile(streets / "points" / "street-001.bin", np.float32).reshape(-1, 4)
    for number in range(100):
        points[number::20].tofile(folder / f"{number:03d}.bin")
    words = ["point-clouds", "predict", folder, "-o", tmp_path, "--model", bundle, "--quiet", "--outputs", "kitti"]
    process = subprocess.Popen(command(*words, "--run", "r"))
    journal = tmp_path / "r" / "journal.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (journal.exists() and journal.read_text().count("\n") >= 10):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal.read_text().count("\n")
    assert 10 <= before < 100
    result = call(*words, "--resume", "r")
    assert result.code == 0, result.err
    with (tmp_path / "r" / "worklist.csv").open() as stream:
        assert sum(row["status"] == "ok" for row in csv.DictReader(stream)) == 100
    whole = call(*words, "--run", "again")
    assert whole.code == 0
    for number in range(100):
        texts = [(tmp_path / run / "cases" / f"{number:03d}" / "kitti.txt").read_text() for run in ("r", "again")]
        assert texts[0] == texts[1]


def test_the_models_are_listed_and_a_bundle_shown(bundle):
    listed = call("point-clouds", "models", "list", "--json")
    assert [json.loads(line)["name"] for line in listed.out.splitlines()] == ["flatformer", "point_pillars"]
    shown = json.loads(call("point-clouds", "models", "show", bundle).out)
    assert shown["settings"]["classes"] == ["car", "pedestrian", "cyclist"]


def test_a_model_that_there_is_not_is_named(tmp_path, prepared, params):
    result = call(
        "point-clouds", "train", prepared, "--model", "flatfromer", "-o", tmp_path / "b", "--run", tmp_path / "r",
        "--params", params,
    )  # fmt: skip
    assert result.code == 2
    assert "did you mean 'flatformer'" in result.sentence()
