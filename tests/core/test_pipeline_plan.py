"""What `pentad plan` says of a pipeline: which stages run, which cannot, and why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pentad.core import pipeline_plan
from pentad.core.errors import UsageError
from pentad.core.pipeline_plan import explain

STAGES = {
    "prepare": {"cmd": "prepare", "deps": ["../data"], "outs": ["prepared"]},
    "train": {"cmd": "train", "deps": ["prepared/table"], "params": ["steps"], "outs": ["bundles/net"]},
    "report": {"cmd": "report", "deps": ["bundles"], "outs": ["page"]},
    "apart": {"cmd": "apart", "deps": ["word"], "outs": ["echo"]},
}


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """A pipeline of four stages, all of which count as run."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_text("raw")
    folder = tmp_path / "pipeline"
    for name in ("prepared/table", "bundles/net", "page", "word", "echo"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "params.yaml").write_text("steps: 1\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    with Repo.init(no_scm=True) as repo:
        repo.config["core"]["analytics"] = False
        repo.commit(str(folder / "dvc.yaml"), force=True)
    monkeypatch.chdir(folder)  # from where paths are told
    return folder


def test_what_has_run_is_up_to_date_and_a_change_makes_all_below_it_run(pipeline):
    assert explain(pipeline) == [(name, "up to date") for name in STAGES]
    (pipeline / "params.yaml").write_text("steps: 2\n")
    assert explain(pipeline) == [
        ("prepare", "up to date"),
        ("train", "runs: params.yaml: steps modified"),
        ("report", "runs: after train"),
        ("apart", "up to date"),
    ]


def test_what_no_stage_makes_must_be_there(pipeline):
    (pipeline / "word").unlink()
    (pipeline / "page").unlink()
    told = dict(explain(pipeline))
    assert told["apart"] == "cannot run: word is not there (pentad samples or dvc pull brings data)"
    assert told["report"] == "runs: page deleted"
    (pipeline / "prepared" / "table").unlink()  # a stage makes it again
    assert dict(explain(pipeline))["train"].startswith("runs: ")


def test_a_folder_without_a_pipeline_or_a_repository_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"PTD-224 .*no dvc\.yaml here; name the folder of a pipeline"):
        explain(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    with pytest.raises(UsageError, match=r"PTD-224 .*no DVC repository holds this pipeline; run dvc init"):
        explain(tmp_path)


@pytest.mark.parametrize(
    ("out", "dep", "overlap"),
    [("a/b", "a/b", True), ("a/b/c", "a/b", True), ("a/b", "a/b/c", True), ("a/b", "a/c", False), ("a/b", "b", False)],
)
def test_a_stage_feeds_another_where_a_path_is_or_holds_the_others(out, dep, overlap):
    made, needed = ([SimpleNamespace(fs_path=str(Path("/x") / path))] for path in (out, dep))
    stage, other = SimpleNamespace(outs=made, cmd="run"), SimpleNamespace(deps=needed)
    assert pipeline_plan._feeds(stage, other) is overlap
    assert pipeline_plan._made(needed[0], [stage]) is overlap
    assert pipeline_plan._made(needed[0], [SimpleNamespace(outs=made, cmd=None)]) is False


def test_three_changes_are_told_and_the_rest_counted():
    changed = {"changed deps": {"a.py": "modified", "params.yaml": {"seed": "new", "steps": "deleted"}}}
    first = "runs: a.py modified; params.yaml: seed new; params.yaml: steps deleted"
    assert pipeline_plan._tell([changed]) == first
    assert pipeline_plan._tell([changed, "changed command", "always changed"]) == f"{first} and 2 more"
    assert pipeline_plan._tell(["changed command"]) == "runs: changed command"
