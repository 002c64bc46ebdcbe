"""What DVC does for a pipeline, on a tiny one of two stages: plans, sweeps, and remotes on disk and S3-like."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.cli import main as dvc_main

from pentad.core.cases import Case, write_cases
from pentad.core.errors import UsageError
from pentad.core.pipeline_plan import explain

STAGES = {
    "folds": {
        "cmd": "pentad folds cases.jsonl -o folds --count ${count} --seed ${seed}",
        "deps": ["cases.jsonl"],
        "params": ["count", "seed"],
        "outs": ["folds"],
    },
    "size": {
        "cmd": """python -c "import json, pathlib; n = len(list(pathlib.Path('folds').glob('*/cases.jsonl')));"""
        """ pathlib.Path('metrics.json').write_text(json.dumps({'tables': n}))" """,
        "deps": ["folds"],
        "metrics": [{"metrics.json": {"cache": False}}],
    },
}


def dvc(*words):
    assert dvc_main([*words, "-q"]) == 0, words


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The folder of a pipeline that cuts twelve cases into folds and counts these, in a repository of its own."""
    root = tmp_path / "repository"
    folder = root / "pipelines" / "tiny"
    folder.mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # its `pentad`
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "nobody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "nobody@example.org")
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init")
    dvc("config", "core.analytics", "false")
    write_cases(folder / "cases.jsonl", [Case(id=f"case-{number}") for number in range(12)])
    (folder / "params.yaml").write_text("count: 2\nseed: 0\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    monkeypatch.chdir(folder)
    return folder


def test_a_pipeline_outside_a_repository_is_one_sentence(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    with pytest.raises(UsageError, match=r"PTD-224 .*no DVC repository"):
        explain(tmp_path)


def commit(folder):
    subprocess.run(["git", "add", "-A"], check=True, cwd=folder)
    subprocess.run(["git", "commit", "-qm", "state"], check=True, cwd=folder)


def tables(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in (folder / "folds").rglob("*.jsonl")}


def test_the_plan_tells_the_truth_before_and_after_each_change(tiny):
    assert [reason.partition(":")[0] for _, reason in explain(tiny)] == ["runs", "runs"]
    dvc("repro")
    assert explain(tiny) == [("folds", "up to date"), ("size", "up to date")]
    (tiny / "params.yaml").write_text("count: 3\nseed: 0\n")
    assert explain(tiny) == [
        ("folds", "runs: params.yaml: count modified; changed command"),
        ("size", "runs: after folds"),
    ]
    write_cases(tiny / "cases.jsonl", [Case(id=f"case-{number}") for number in range(9)])
    told = dict(explain(tiny))["folds"]
    assert "cases.jsonl modified" in told
    assert "count modified" in told
    (tiny / "cases.jsonl").unlink()
    told = dict(explain(tiny))
    assert told["folds"].startswith("cannot run: cases.jsonl is not there")
    assert told["size"] == "runs: after folds"


def test_a_sweep_leaves_an_experiment_a_setting(tiny, monkeypatch):
    dvc("repro")
    commit(tiny)
    dvc("exp", "run", "--name", "folds-3", "-S", "count=3")
    monkeypatch.chdir(tiny.parents[1])
    dvc("exp", "run", "--name", "folds-4", "-S", "pipelines/tiny/params.yaml:count=4", "pipelines/tiny/dvc.yaml")
    assert json.loads((tiny / "metrics.json").read_text()) == {"tables": 4}
    shown = subprocess.run([sys.executable, "-m", "dvc", "exp", "show", "--json"], capture_output=True, check=True)
    (revision,) = [entry for entry in json.loads(shown.stdout) if entry["rev"] != "workspace"]
    found = {
        one["name"]: (one["revs"][0]["data"]["params"]["pipelines/tiny/params.yaml"]["data"]["count"])
        for one in revision["experiments"]
    }
    assert found == {"folds-3": 3, "folds-4": 4}


@pytest.fixture
def bucket(monkeypatch):
    """An S3-like server on this machine with an empty bucket: (address of the bucket, address of the server)."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="pentad")
    yield "s3://pentad/store", f"http://{host}:{port}"
    server.stop()


def check_round_trip(folder):
    """Make, push, lose everything that git does not hold, pull, and find the same files and nothing left to do."""
    dvc("repro")
    made = tables(folder)
    assert len(made) >= 2
    dvc("push")
    shutil.rmtree(folder.parents[1] / ".dvc" / "cache")
    shutil.rmtree(folder / "folds")
    dvc("pull")
    assert tables(folder) == made
    assert {reason for _, reason in explain(folder)} == {"up to date"}


def test_results_travel_through_a_remote_on_disk(tiny, tmp_path):
    dvc("remote", "add", "--default", "storage", str(tmp_path / "storage"))
    check_round_trip(tiny)


def test_results_travel_through_an_s3_like_remote(tiny, bucket):
    store, server = bucket
    dvc("remote", "add", "--default", "storage", store)
    dvc("remote", "modify", "storage", "endpointurl", server)
    check_round_trip(tiny)
