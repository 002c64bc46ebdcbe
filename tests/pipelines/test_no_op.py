"""``dvc repro`` of all pipelines, where nothing is to be done, takes seconds."""

import os
import resource
import shutil

import pytest
import yaml
from pipelines.checkout import ROOT, copy_project, dvc

SECONDS = 15


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the project in which every pipeline counts as run: small files stand for what its stages write."""
    if not (ROOT / "data").is_dir():
        pytest.skip("no sample data here; write it with pentad samples")
    place = copy_project(tmp_path_factory.mktemp("checkout"), "pipelines", leftovers=())
    shutil.copytree(ROOT / "data", place / "data", copy_function=os.link)
    for file in place.glob("pipelines/*/dvc.yaml"):
        for out in outputs(file):
            if not out.exists():
                out.mkdir(parents=True)
                (out / "result").write_text(out.as_posix())
    files = [file.relative_to(place).as_posix() for file in place.glob("pipelines/*/dvc.yaml")]
    dvc(place, "commit", "--force", *files, "dvc.yaml")
    return place


def outputs(file):
    """What the stages of a pipeline write, as paths."""
    params = yaml.safe_load((file.parent / "params.yaml").read_text())
    for stage in yaml.safe_load(file.read_text())["stages"].values():
        for entry in (*stage.get("outs", ()), *stage.get("metrics", ()), *stage.get("plots", ())):
            name = entry if isinstance(entry, str) else next(iter(entry))
            for model in params["models"]:
                yield file.parent / name.replace("${item.model}", model).replace("${models[0]}", params["models"][0])


@pytest.mark.slow
def test_a_second_run_of_all_pipelines_takes_seconds_and_runs_nothing(finished):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = dvc(finished, "repro")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Running stage" not in told
    assert told.count("didn't change") >= 30
    # Processor time, which other work on the machine does not lengthen as it does the clock's.
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < SECONDS
