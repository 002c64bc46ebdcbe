"""The shape of the tree: no long file, no long function, no module that is named for nothing."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "packages", "scripts", "tests")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "peers" not in path.parts)
LINES, LINES_OF_MODELS, LINES_OF_A_FUNCTION = 600, 800, 80
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


def named(path):
    return path.relative_to(ROOT).as_posix()


def test_the_sources_are_found():
    assert len(SOURCES) > 200


def test_no_file_is_longer_than_one_can_read():
    limits = {path: LINES_OF_MODELS if path.parent.name == "models" else LINES for path in SOURCES}
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in SOURCES}
    assert {named(path): lines for path, lines in lengths.items() if lines > limits[path]} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_function_is_longer_than_a_screen(folder):
    long = {}
    for path in (path for path in SOURCES if path.is_relative_to(ROOT / folder)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LINES_OF_A_FUNCTION:
                    long[f"{named(path)}: {node.name}"] = lines
    assert long == {}


def test_modules_are_named_for_what_they_hold():
    assert [named(path) for path in SOURCES if {*path.stem.split("_"), path.parent.name} & VAGUE] == []


def test_there_is_no_module_of_the_namespace_itself():
    assert list(ROOT.glob("packages/*/src/pentad/__init__.py")) == []
