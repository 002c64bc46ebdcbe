"""What every pipeline promises, told from its files alone."""

import re
from pathlib import Path

import grimp
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = sorted(path.name for path in (ROOT / "pipelines").iterdir() if (path / "dvc.yaml").is_file())
# The module behind each verb: what it imports, directly or not, decides what a stage computes.
VERBS = {
    "prepare": "ingest",
    "plan": "planning",
    "train": "train",
    "evaluate": "evaluate",
    "predict": "infer",
    "report": "report",
    "compare": "comparison",
    "measure": "measure",
}
FILES = sorted((ROOT / "pipelines").glob("**/dvc.yaml"))


def stages():
    for file in FILES:
        content = yaml.safe_load(file.read_text())
        variables = {key: value for entry in content["vars"] for key, value in entry.items()}
        params = yaml.safe_load((file.parent / "params.yaml").read_text())
        for name, stage in content["stages"].items():
            pipeline = file.parent.relative_to(ROOT / "pipelines")
            yield pytest.param(pipeline, stage, {**params, **variables}, id=f"{pipeline}:{name}")


@pytest.fixture(scope="session")
def imports():
    domains = sorted(path.name for path in (ROOT / "packages").iterdir() if (path / "pyproject.toml").is_file())
    return grimp.build_graph(*(f"pentad.{domain}" for domain in domains), cache_dir=None)


def source_of(module):
    _, domain, *rest = module.split(".")
    place = ROOT / "packages" / domain / "src" / "pentad" / domain / Path(*rest)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@pytest.mark.parametrize(("pipeline", "stage", "variables"), stages())
def test_a_stage_depends_on_all_pentad_code_it_runs(pipeline, stage, variables, imports):
    first, second = re.match(r"pentad ([\w-]+) (\S+)", stage["cmd"]).groups()
    # A verb of core stands alone and is called as its module.
    domain = first.replace("-", "_")
    module = f"pentad.{domain}.{VERBS[second]}" if second in VERBS else f"pentad.core.{first}"
    reached = {module} | imports.find_upstream_modules(module)
    if f"pentad.{domain}.models" in reached:
        # A model's module may be imported by its name when one is built, which the graph does not show.
        models = imports.find_descendants(f"pentad.{domain}.models")
        reached |= models.union(*map(imports.find_upstream_modules, models))
    needed = {source_of(name) for name in reached}
    needed = {path for path in needed if path.read_text().count("\n") > 1}
    folder = ROOT / "pipelines" / pipeline
    texts = [
        re.sub(r"\$\{(\w+)\}", lambda name: str(variables[name[1]]), text)
        for text in stage["deps"]
        if "${item" not in text
    ]
    listed = [(folder / text).resolve() for text in texts]
    uncovered = [path for path in needed if not any(path == dep or dep in path.parents for dep in listed)]
    assert sorted(str(path.relative_to(ROOT)) for path in uncovered) == []
    assert [path for path in listed if "packages" in path.parts and not path.exists()] == []


@pytest.mark.parametrize(("pipeline", "stage", "variables"), stages())
def test_a_stage_says_what_it_does(pipeline, stage, variables):
    assert len(stage["desc"]) > 10


def test_every_pipeline_has_a_root_stage_that_depends_on_what_it_makes():
    root = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert sorted(root) == [f"pipelines/{name}" for name in PIPELINES]
    for name in PIPELINES:
        assert f"pipelines/{name}/metrics.json" in root[f"pipelines/{name}"]["deps"]
