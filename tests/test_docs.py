"""What the READMEs say is so: links, error codes, code blocks, commands and versions."""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from command import call
from dvc.cli.parser import get_main_parser
from typer.testing import CliRunner

from pentad.audio import models
from pentad.core import errors
from pentad.core.cli import app
from pentad.core.layers.selective_scan import available_backends
from pentad.medical.volumes import Volume, write_nifti

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for path in (ROOT / "packages").glob("*/pyproject.toml"))
READMES = [ROOT / "README.md", *(package / "README.md" for package in PACKAGES)]
PIPELINES = sorted(path.parent / "README.md" for path in (ROOT / "pipelines").glob("*/dvc.yaml"))
GUIDES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = [*READMES, *PIPELINES, *GUIDES]
CODE = re.compile(r"PTD-\d{3}")
SECONDS_SHORT = ("doctor", "medical models list", "parity")


def documents():
    call = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def prose(path):
    return re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def blocks(path, language):
    pattern = rf"^( *)```{language}\n(.*?)^ *```"
    for indent, text in re.findall(pattern, path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        yield re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)


def each_block(language):
    for path in EXAMPLES:
        for number, text in enumerate(blocks(path, language)):
            yield pytest.param(text, id=f"{path.relative_to(ROOT)}:{number}")


def commands(program, text):
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == [program]]


def every_command(program):
    for path in EXAMPLES:
        for text in (*blocks(path, "bash"), *blocks(path, "bash no-run")):
            for words in commands(program, text):
                yield pytest.param(words, id=" ".join(words))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty folder that looks like the checkout to the commands of the READMEs."""
    for name in ("data", "pipelines", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(path):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        wrong_heading = anchor and there.is_file() and anchor not in anchors(there)
        if "://" not in target and (not there.exists() or wrong_heading):
            broken.append(target)
    assert broken == []


def raised(package):
    """Each code in the package's source outside docstrings, with the exit codes of the errors made with it."""
    found = {}
    for path in sorted((package / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        made = {id(inner): node for node in ast.walk(tree) if isinstance(node, ast.Call) for inner in node.args}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                call = made.get(id(node))
                kind = getattr(errors, getattr(getattr(call, "func", None), "id", ""), None)
                for code in CODE.findall(node.value):
                    found.setdefault(code, set()).update({kind.exit_code} if kind else ())
    return found


def documented(package):
    text = (package / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| (PTD-\d{3}) \| .+ \| (\S+) \|$", text, re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_code_table_of_a_package_lists_what_its_source_raises_and_nothing_else(package):
    listed = {code for code, _ in documented(package)}
    assert {"missing": sorted(raised(package).keys() - listed), "stale": sorted(listed - raised(package).keys())} == {
        "missing": [],
        "stale": [],
    }


def test_every_code_stands_once_in_all_tables():
    counts = Counter(code for package in PACKAGES for code, _ in documented(package))
    assert [code for code, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_code_table_states_the_exit_code_of_the_error_that_is_raised(package):
    exits = {code: {str(exit_code) for exit_code in found} for code, found in raised(package).items()}
    # What is left aside is made as an error too, but ends nothing.
    wrong = {code: shown for code, shown in documented(package) if shown != "—" and exits[code] - {shown}}
    assert wrong == {}


@pytest.mark.parametrize("text", each_block("python"))
def test_a_python_example_runs(text, checkout, monkeypatch):
    module = types.ModuleType("example")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "example", module)
    exec(compile(text, "README", "exec"), module.__dict__)


def test_the_engineers_batch_run_measures_every_scan(checkout, monkeypatch):
    (text,) = [text for text in blocks(ROOT / "docs/engineer.md", "python") if "run_batch" in text]
    (checkout / "mean_hu.py").write_text(text)
    monkeypatch.syspath_prepend(str(checkout))
    monkeypatch.setenv("PYTHONPATH", str(checkout))  # for the worker process
    scan = Volume(np.full((4, 5, 6), 30, np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
    write_nifti(checkout / "a.nii.gz", scan)
    (checkout / "b.nii.gz").write_text("no image")
    measured = importlib.import_module("mean_hu").main([checkout / "a.nii.gz", checkout / "b.nii.gz"], checkout / "out")
    assert measured == 3
    assert (checkout / "out/means/cases/a/mean.txt").read_text() == "30.0 HU\n"
    assert "b,failed,PTD-350" in (checkout / "out/means/worklist.csv").read_text()


@pytest.mark.parametrize("words", every_command("pentad"))
def test_a_command_of_a_readme_is_accepted_by_the_command_line(words):
    command, context = typer.main.get_command(app), None
    words = list(words)
    while hasattr(command, "get_command"):
        context = command.make_context(command.name, [], parent=context, resilient_parsing=True)
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"there is no command '{name}'"
    command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize("words", [case for case in every_command("pentad") if case.id.startswith(SECONDS_SHORT)])
def test_a_short_command_of_a_readme_succeeds(words, checkout):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def each_guide_to_run():
    """The guides' blocks of commands that run as they stand, in one folder a guide; `no-run` marks the others."""
    for path in GUIDES:
        if texts := list(blocks(path, "bash")):
            yield pytest.param(path, texts, id=path.name)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "texts"), each_guide_to_run())
def test_the_commands_of_a_guide_run_one_after_the_other(path, texts, checkout, monkeypatch):
    if not (ROOT / "data" / "medical" / "liver").is_dir():
        pytest.skip("no sample data here; write it with pentad samples")
    follow_the_researcher(path, checkout, monkeypatch)
    for words in (words for text in texts for words in commands("pentad", text) if words != ["samples", "data"]):
        done = call(*words)
        assert done.code == 0, f"{' '.join(words)}: {done.out} {done.err}"
    written = {file.relative_to(checkout).as_posix() for file in checkout.glob("*/*/*") if file.is_file()}
    for shown in re.findall(r"`((?:results|evaluations)/[\w/.]+)`", path.read_text(encoding="utf-8")):
        assert shown in written


def follow_the_researcher(path, folder, monkeypatch):
    """Do what the researcher's guide says beside its commands: the model's file, its entry, the settings."""
    if path.name != "researcher.md":
        return
    (folder / "own").mkdir()
    (folder / "own" / "gru.py").write_text(next(blocks(path, "python")))
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder / "own")])
    (entry,) = blocks(path, "text")
    monkeypatch.setattr(models, "MODELS", {**models.MODELS, **ast.literal_eval(f"{{{entry}}}")})
    params = yaml.safe_load((ROOT / "pipelines/sound_events/params.yaml").read_text())
    (own,) = blocks(path, "yaml")
    (folder / "params.yaml").write_text(yaml.safe_dump({**params, **yaml.safe_load(own)}))


@pytest.mark.slow
def test_the_first_result_comes_as_the_root_readme_says(checkout):
    if not (ROOT / "data" / "medical" / "liver").is_dir():
        pytest.skip("no sample data here; write it with pentad samples")
    section = READMES[0].read_text(encoding="utf-8").split("## A first result")[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1]
    codes = [CliRunner().invoke(app, words).exit_code for words in commands("pentad", block) if words != ["samples"]]
    assert codes == [0, 0]
    assert (checkout / "first" / "threshold" / "worklist.csv").read_text().count(",ok,") == 1
    assert len(list(checkout.glob("first/threshold/cases/*/seg.dcm"))) == 1


def test_make_targets_and_pipelines_of_the_readmes_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = {*re.findall(r"^([a-z]+):", makefile, re.MULTILINE), *(path.name for path in ROOT.glob("pipelines/*"))}
    assert {case.values[0][0] for case in every_command("make")} - known == set()
    repeated = {word for case in every_command("dvc") if case.values[0][0] == "repro" for word in case.values[0][1:]}
    assert [path for path in repeated if not ((ROOT / path / "dvc.yaml").is_file() or path.endswith("dvc.yaml"))] == []


def test_every_option_of_dvc_in_the_examples_exists():
    parsed = [get_main_parser().parse_args(case.values[0]) for case in every_command("dvc")]  # a wrong call exits
    assert parsed
    assert all(call.cmd for call in parsed)


def test_every_domain_has_a_small_picture_in_the_root_readme():
    shown = re.findall(r"!\[[^\]]+\]\((docs/pictures/([a-z_]+)\.(?:png|svg))\)", READMES[0].read_text(encoding="utf-8"))
    assert sorted(name for _, name in shown) == sorted(folder.name for folder in PACKAGES if folder.name != "core")
    assert all((ROOT / file).stat().st_size < 200_000 for file, _ in shown)


def test_the_root_readme_stays_under_200_lines():
    assert len(READMES[0].read_text(encoding="utf-8").splitlines()) < 200


def test_the_core_readme_lists_the_selective_scans_backends():
    section = (ROOT / "packages/core/README.md").read_text().split("## Selective scan")[1]
    assert re.findall(r"^\| `(\w+)` \|", section.split("\n## ")[0], re.MULTILINE) == list(available_backends())


@pytest.mark.parametrize(
    ("package", "script", "mark"),
    [("core", "selective_scan", "selective scan"), ("audio",) * 3, ("nlp", "nlp_predict", "texts a second")],
)
def test_a_package_quotes_its_measured_figures(package, script, mark):
    path = ROOT / f"benchmarks/{script}.py"
    benchmark = importlib.util.module_from_spec(importlib.util.spec_from_file_location(f"{script}_benchmark", path))
    benchmark.__spec__.loader.exec_module(benchmark)
    measured = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    text = (ROOT / f"packages/{package}/README.md").read_text(encoding="utf-8")
    quoted = text.split(f"<!-- {mark}: begin -->")[1].split(f"<!-- {mark}: end -->")[0]
    assert quoted.strip() == benchmark.table(measured).strip()


def test_the_core_readme_lists_every_module_of_core():
    section = (ROOT / "packages/core/README.md").read_text().split("## Modules")[1].split("\n## ")[0]
    source = ROOT / "packages/core/src/pentad/core"
    public = {path.stem for path in source.glob("*.py") if not path.stem.startswith("_")} | {"batch"}
    listed = re.findall(r"`([\w.]+)`", "\n".join(re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)))
    assert {name for name in listed if "." not in name} == public
    assert [name for name in listed if importlib.util.find_spec(f"pentad.core.{name}") is None] == []


def test_all_packages_have_one_version_and_pin_their_siblings_to_it():
    projects = [tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (ROOT, *PACKAGES)]
    assert len({project["version"] for project in projects}) == 1
    siblings = [need for project in projects for need in project.get("dependencies", []) if need.startswith("pentad-")]
    assert siblings
    assert {need.partition("==")[2] for need in siblings} == {projects[0]["version"]}
