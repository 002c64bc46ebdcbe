#!/usr/bin/env python
"""Break the core in random small ways and count how often its tests notice: the share of mutants killed.

    COVERAGE_CONTEXT=test_function coverage run -m pytest -p no:xdist tests/core && coverage combine
    python scripts/mutants.py --count 100 --seed 0

Each mutant is one change to one expression outside decorators, in a copy of packages/core: a comparison, an operator, a
constant, a negated condition, a returned value. It meets the tests that run its line by the coverage data, the fastest
first, and is killed where one fails or takes too long; lines that only worker processes run, and those outside of
functions, which whichever test imports the module first happens to run, are met by the test file of the module's name
and by the tests that run any of its lines. One process imports the heavy libraries once and is forked for every mutant.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from coverage import CoverageData

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "packages" / "core" / "src"
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
}


def mutations(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Change the tree in each possible way in turn, yield line and words, and take the change back."""
    spared = {
        id(part) for node in ast.walk(tree) for mark in getattr(node, "decorator_list", []) for part in ast.walk(mark)
    }
    for node in ast.walk(tree):
        if id(node) in spared:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield from _changed(node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]])
        elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
            yield from _changed(node, "op", SWAPS[type(node.op)]())
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            yield from _changed(node, "test", ast.UnaryOp(ast.Not(), node.test))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            yield from _changed(node, "value", not node.value if isinstance(node.value, bool) else node.value + 1)
        elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
            yield from _changed(node, "value", ast.Constant(None))


def _changed(node: ast.AST, field: str, value: object) -> Iterator[tuple[int, str]]:
    before, was = getattr(node, field), ast.unparse(node).splitlines()[0]
    setattr(node, field, value)
    yield getattr(node, "lineno", 0), f"{was}  ->  {ast.unparse(ast.fix_missing_locations(node)).splitlines()[0]}"
    setattr(node, field, before)


def tests_by_line(data: CoverageData) -> dict[str, dict[int, list[str]]]:
    """Test functions, as file::name, that ran each line of each file of the core."""
    found: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        if "packages/core/src/" in file:
            by_line = data.contexts_by_lineno(file)
            found["packages/" + file.partition("packages/")[2]] = {
                line: [node for name in names if (node := _node(name))] for line, names in by_line.items()
            }
    return found


def in_functions(tree: ast.AST) -> set[int]:
    """Lines of functions' bodies, which run when a function is called and not when its module is imported."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {line for node in found for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)}


def named_for(file: str) -> list[str]:
    """Test files that bear the module's name or its beginning, else its folder's: they run it in other processes."""
    for name in (Path(file).stem, Path(file).parent.name):
        found = [path for path in (ROOT / "tests" / "core").rglob("test_*.py") if name.startswith(path.stem[5:])]
        longest = max((len(path.stem) for path in found), default=0)
        if found:
            return [path.relative_to(ROOT).as_posix() for path in found if len(path.stem) == longest]
    return []


def _node(context: str) -> str:
    """`core.test_x.test_y` or `tests.core.test_x.test_y` as tests/core/test_x.py::test_y, or nothing."""
    match = re.fullmatch(r"(?:tests\.)?((?:\w+\.)*test_\w+)\.(test_\w+)", context)
    file = f"tests/{match[1].replace('.', '/')}.py" if match else ""
    return f"{file}::{match[2]}" if match and (ROOT / file).is_file() else ""


def run(tests: list[str], source: Path, seconds: float = 120) -> int:
    """Return pytest's exit code in a forked process that sees the mutated source; -9 after the time."""
    child = os.fork()
    if child == 0:
        os.setsid()
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        sys.path.insert(0, str(source))
        os.environ["PYTHONPATH"] = str(source)  # worker processes see it too
        import pytest

        os._exit(pytest.main(["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *tests]))
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9


def main() -> None:
    """Make, try and count mutants; survivors are printed with their line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--data", default=".coverage", help="Coverage data with the tests of each line.")
    options.add_argument("--tests", type=int, default=12, help="Most test functions that a mutant meets.")
    given = options.parse_args()
    data = CoverageData(given.data)
    data.read()
    by_line = tests_by_line(data)
    breadth = Counter(test for lines in by_line.values() for tests in lines.values() for test in tests)
    places = [
        (file, number, line)
        for file in sorted(by_line)
        for number, (line, _) in enumerate(mutations(ast.parse((ROOT / file).read_text())))
        if line in by_line[file]
    ]
    chosen = random.Random(given.seed).sample(places, min(given.count, len(places)))
    import accelerate, jinja2, matplotlib, numba, pydantic, pytest, rich, scipy, torch, typer  # noqa: E401, F401, I001

    score = 0
    for number, (file, which, line) in enumerate(chosen, 1):
        tests = by_line[file][line] if line in in_functions(ast.parse((ROOT / file).read_text())) else []
        tests = tests or [*named_for(file), *(test for some in by_line[file].values() for test in some)]
        tests = sorted(set(tests), key=lambda test: breadth[test])[: given.tests]  # those of few lines are fast
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(SOURCE, Path(folder) / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            tree = ast.parse((ROOT / file).read_text())
            for place, (_, found) in enumerate(mutations(tree)):
                words = found
                if place == which:  # the tree is changed while the iteration stands here
                    changed = ast.unparse(ast.fix_missing_locations(tree))
                    break
            (Path(folder) / file.removeprefix("packages/core/")).write_text(changed)
            code = run(tests, Path(folder) / "src") if tests else 0
        killed = code not in (0, 5)
        score += killed
        sys.stdout.write(f"{number:4} {'killed  ' if killed else 'SURVIVED'} {file}:{line}  {words}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{score} of {len(chosen)} mutants killed, {score / max(len(chosen), 1):.0%}\n")


if __name__ == "__main__":
    main()
