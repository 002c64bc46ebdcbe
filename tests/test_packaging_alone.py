"""Each domain's wheel works with core's and what both ask for, and without anything else that is installed here.

An environment of links stands for an empty one: the two wheels unpacked, and of the locked environment only the
distributions that they ask for, directly or not. scripts/check_install.sh does the same with the registry.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
DOMAINS = sorted(
    path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml") if path.parent.name != "core"
)
# All modules but those that are loaded where Ray or a GPU is.
EVERY_MODULE = """
import importlib, pathlib, sys
import pentad.core, {package}
for package in (pentad.core, {package}):
    root = pathlib.Path(package.__path__[0])
    for file in sorted(root.rglob("*.py")):
        name = ".".join([package.__name__, *file.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
        if not name.endswith(("__main__", "ray_engine", "_triton", "_triton_kernels", "_mamba_ssm")):
            importlib.import_module(name)
print("imported", len([name for name in sys.modules if name.startswith("pentad.")]))
"""


def asked_for(name, extra="", seen=None):
    """The distributions that one asks for, itself included, as far as they are installed."""
    seen = set() if seen is None else seen
    key = (canonicalize_name(name), extra)
    if key in seen:
        return seen
    try:
        needs = [Requirement(text) for text in distribution(name).requires or ()]
    except PackageNotFoundError:
        return seen
    seen.add(key)
    for need in needs:
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            for inner in ("", *need.extras):
                asked_for(need.name, inner, seen)
    return seen


def alone(domain, place):
    """An environment of links with the wheels of core and one domain; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True)
    python = place / "venv/bin/python"
    (site,) = (place / "venv/lib").glob("python*/site-packages")
    for package in ("core", domain):
        source, out = place / "source" / package, place / package
        shutil.copytree(ROOT / "packages" / package, source, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
        call = ["build", "--no-isolation", "--wheel", "--outdir", str(out), str(source)]
        subprocess.run([sys.executable, "-m", *call], check=True, capture_output=True)
        zipfile.ZipFile(next(out.glob("*.whl"))).extractall(site)
    for name, _ in sorted(asked_for(f"pentad-{domain.replace('_', '-')}")):
        if name.startswith("pentad-"):
            continue
        for top in {Path(str(file)).parts[0] for file in distribution(name).files or ()} - {"..", "__pycache__"}:
            there = Path(str(distribution(name).locate_file(top)))
            if there.exists() and not (site / top).exists():
                (site / top).symlink_to(there)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_needs_nothing_but_what_its_wheel_asks_for(domain, tmp_path):
    python = alone(domain, tmp_path)
    names = {canonicalize_name(name) for name, _ in asked_for(f"pentad-{domain.replace('_', '-')}")}
    assert "pytest" not in names  # the environment is smaller than this one
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*words):
        done = subprocess.run([python, *words], cwd=tmp_path, env=kept, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    code = EVERY_MODULE.format(package=f"pentad.{domain}")
    assert int(run("-c", code).split()[-1]) > 50
    command = domain.replace("_", "-")
    assert "predict" in run("-m", "pentad.core", command, "--help")
    told = run("-m", "pentad.core", "doctor")
    lines = [line.split(maxsplit=1) for line in told.splitlines() if line.startswith("pentad-")]
    packages = {name: state for name, state in lines if "[" not in name}
    assert set(packages) == {"pentad-core", f"pentad-{command}"}
    assert all(state.endswith(", complete") for state in packages.values())
    extras = [state for name, state in lines if "[" in name]
    assert extras
    assert all(state.startswith("not installed: pip install ") for state in extras)
