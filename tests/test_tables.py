"""The tables of the root README are what the generator gives, and its sources agree with each other."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from pentad.core.evaluation import from_entry
from pentad.core.results import write_row

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = sorted(file.parent for file in ROOT.glob("pipelines/*/dvc.yaml"))
REAL = sorted(ROOT.glob("pipelines/*/metrics.*.json"))


def script(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = script(ROOT / "scripts/readme_tables.py")
every = script(ROOT / "benchmarks/every.py")


@pytest.mark.parametrize(("mark", "table"), [("results", tables.results), ("benchmarks", tables.benchmarks)])
def test_the_readme_holds_what_the_generator_gives(mark, table):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.insert(text, mark, table(ROOT)) == text, "run python scripts/readme_tables.py"


def test_the_page_of_the_benchmarks_holds_every_comparison():
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert page == tables.benchmarks_readme(ROOT), "run python scripts/readme_tables.py"
    assert page.count(" x |") >= len(every.collect())


def test_the_tables_follow_the_metrics(tmp_path):
    folder = tmp_path / "pipelines" / "liver_seg"
    folder.mkdir(parents=True)
    (folder / "dvc.yaml").write_text("")
    entry = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 4}
    metrics = {"data": "synthetic", "headline": "lesion_dice", "models": {"net": {"lesion_dice": entry}}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    place = "| [liver_seg](pipelines/liver_seg/README.md) |"
    assert f"{place} synthetic | 4 | lesion dice | net 0.500 [0.250, 0.750] |" in tables.results(tmp_path)
    assert f"{place} none measured |" in tables.real(tmp_path)
    (folder / "metrics.ct.json").write_text(json.dumps({**metrics, "data": "nine scans"}))
    beside = {"model": "Net", "data": "B", "metric": "Dice", "value": "0.7", "source": "https://example.org"}
    (folder / "published.json").write_text(json.dumps([beside]))
    assert tables.real(tmp_path).splitlines()[2:] == [
        f"{place} nine scans | 4 | lesion dice | net 0.500 [0.250, 0.750] | [Net](https://example.org) Dice 0.7 (B) |"
    ]


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(SystemExit, match="results: begin"):
        tables.insert("# pentad", "results", "")


@pytest.mark.parametrize("folder", PIPELINES, ids=lambda folder: folder.name)
def test_a_pipelines_table_follows_its_metrics(folder, tmp_path):
    write_row(folder, tmp_path / "row.md")
    assert (folder / "results.md").read_text(encoding="utf-8") == (tmp_path / "row.md").read_text(encoding="utf-8")
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["data"] == "synthetic"


@pytest.mark.parametrize("file", REAL, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_real_figures_stand_in_the_pipelines_readme_and_have_their_settings(file):
    found = json.loads(file.read_text(encoding="utf-8"))
    text = (file.parent / "README.md").read_text(encoding="utf-8")
    for metrics in found["models"].values():
        for metric in found["headline"].split(", "):
            assert from_entry(metrics[metric]).format() in text, metric
    assert found["data"] != "synthetic"
    assert (file.parent / file.name.replace("metrics.", "params.").replace(".json", ".yaml")).is_file()


def test_the_benchmarks_are_collected():
    assert json.loads((ROOT / "benchmarks/results.json").read_text()) == every.collect(), (
        "run python benchmarks/every.py --collect"
    )


def test_every_comparison_names_machine_and_ratio():
    rows = every.collect()
    assert rows
    assert all(row["time"] > 0 and row["peer"] and row["machine"].strip(", ") for row in rows)
    assert {Path(name).suffix for name in {row["source"] for row in rows}} == {".json"}


def test_a_measurement_that_fails_is_named_and_keeps_its_figures(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    kept = [
        {"variant": "flat", "cpu_ratio": 1.0, "memory_mb": 10},
        {"variant": "padded", "cpu_ratio": 2, "memory_mb": 5},
    ]
    (tmp_path / "broken.json").write_text(json.dumps({"processor": "P", "cores": 2, "encoder": {"rows": kept}}))
    monkeypatch.setattr(every, "HERE", tmp_path)
    monkeypatch.setattr(every, "EVERY", {"broken": ("broken", ["broken.py"], every.of_points)})
    monkeypatch.setattr(sys, "argv", ["every.py"])
    with pytest.raises(SystemExit, match="failed: broken"):
        every.main()
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert (row["peer"], row["time"], row["memory"], row["machine"]) == ("padded", 2, 0.5, "P, 2 cores")
    assert "1 comparisons" in capsys.readouterr().out
