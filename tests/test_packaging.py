"""What a wheel brings and asks for: built once, read back, not installed (scripts/check_install.sh does that)."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for path in (ROOT / "packages").glob("*/pyproject.toml"))
PROJECTS = {folder.name: tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in PACKAGES}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NAMES = pytest.mark.parametrize("name", PROJECTS)

# Asked for without being imported by name, and why.
PLUG_INS = {
    "medical": {"pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"},  # pydicom finds its decoders
    "remote_sensing": {"pyogrio", "pyproj"},  # geopandas writes and projects with them
}
# Imported only where it is found, in code that says what happens without it.
WHERE_FOUND = {"core": {"dvc", "mamba-ssm", "triton"}}


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Every package's wheel, made from its sdist and without a network, by the package's name."""
    place = tmp_path_factory.mktemp("built")
    found = {}
    for folder in PACKAGES:
        source = place / "source" / folder.name
        unbuilt = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
        shutil.copytree(folder, source, ignore=unbuilt)
        call = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / folder.name), str(source)]
        done = subprocess.run(call, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        found[folder.name] = next((place / folder.name).glob("*.whl"))
    return found


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (file,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(file).decode())


def test_no_file_is_in_two_wheels(built):
    counts = Counter(name for wheel in built.values() for name in names(wheel))
    assert [name for name, count in counts.items() if count > 1] == []


@NAMES
def test_a_wheel_holds_the_packages_whole_source_and_nothing_else(name, built):
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src"]
    call = subprocess.run(listed, cwd=ROOT / "packages" / name, capture_output=True, text=True, check=True)
    wanted = {
        line.removeprefix("src/") for line in call.stdout.splitlines() if (ROOT / "packages" / name / line).exists()
    }
    held = {file for file in names(built[name]) if ".dist-info/" not in file}
    assert held == wanted
    assert f"pentad/{name}/py.typed" in held


@NAMES
def test_a_wheel_says_what_it_is(name, built):
    about = metadata(built[name])
    assert about["Name"] == f"pentad-{name.replace('_', '-')}"
    assert about["Version"] == VERSION
    assert about["License-Expression"] == "Apache-2.0"
    assert about["License-File"] == "LICENSE"
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in names(built[name]))
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload().startswith(f"# pentad-{name.replace('_', '-')}")
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= set(about.get_all("Classifier"))
    assert about.get_all("Project-URL") is None  # none is public


@NAMES
def test_siblings_are_pinned_to_the_one_version(name, built):
    needs = [Requirement(text) for text in metadata(built[name]).get_all("Requires-Dist")]
    siblings = [need for need in needs if need.name.startswith("pentad-")]
    assert {str(need.specifier) for need in siblings} == (set() if name == "core" else {f"=={VERSION}"})


@NAMES
def test_an_sdist_holds_licence_readme_and_source(name, built):
    (archive,) = built[name].parent.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {file.partition("/")[2] for file in opened.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", f"src/pentad/{name}/__init__.py"} <= held


def test_the_licence_is_the_same_everywhere_and_so_is_the_version():
    text = (ROOT / "LICENSE").read_text()
    assert {(folder / "LICENSE").read_text() for folder in PACKAGES} == {text}
    assert {project["version"] for project in PROJECTS.values()} == {VERSION}
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == VERSION


def test_one_command_sets_the_version_everywhere(tmp_path):
    files = [ROOT / "pyproject.toml", ROOT / "CITATION.cff", *(folder / "pyproject.toml" for folder in PACKAGES)]
    for file in files:
        (tmp_path / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    subprocess.run([ROOT / "scripts/set_version.sh", "7.8.9rc1", tmp_path], check=True)
    for file in files:
        before, after = file.read_text(), (tmp_path / file.relative_to(ROOT)).read_text()
        assert VERSION not in re.findall(r"(?:version\W+|pentad-\S+==)([0-9a-z.]+)", after)
        assert after.replace("7.8.9rc1", VERSION) == before


def imported(name):
    """Top modules that a package's source imports from outside the standard library and its own namespace."""
    found = set()
    for path in (ROOT / "packages" / name / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"pentad"}


def asked_for(project):
    """Distributions that a package asks for itself or by an extra, a sibling's extra included."""
    extras = [text for texts in project.get("optional-dependencies", {}).values() for text in texts]
    found = set()
    for need in map(Requirement, [*project["dependencies"], *extras]):
        found.add(canonicalize_name(need.name))
        if need.name == "pentad-core":
            shared = PROJECTS["core"]["optional-dependencies"]
            found |= {canonicalize_name(Requirement(text).name) for extra in need.extras for text in shared[extra]}
    return found


@NAMES
def test_a_package_asks_for_what_it_imports(name):
    owners = packages_distributions()
    allowed = asked_for(PROJECTS[name]) | WHERE_FOUND.get(name, set())
    wanted = {module: {canonicalize_name(owner) for owner in owners.get(module, [module])} for module in imported(name)}
    assert sorted(module for module, given in wanted.items() if not given & allowed) == []


@NAMES
def test_a_package_imports_what_it_asks_for(name):
    owners = packages_distributions()
    used = {canonicalize_name(owner) for module in imported(name) for owner in owners.get(module, [module])}
    asked = {canonicalize_name(Requirement(text).name) for text in PROJECTS[name]["dependencies"]}
    assert sorted(asked - used - PLUG_INS.get(name, set()) - {"pentad-core"}) == []


def test_every_extra_is_in_the_readme_of_its_package():
    for name, project in PROJECTS.items():
        text = (ROOT / "packages" / name / "README.md").read_text(encoding="utf-8")
        for extra in project.get("optional-dependencies", {}):
            assert f"{project['name']}[{extra}]" in text, f"{name}: {extra}"


def test_the_lock_holds_what_the_packages_ask_for():
    locked = dict(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    for project in PROJECTS.values():
        extras = [text for texts in project.get("optional-dependencies", {}).values() for text in texts]
        for need in map(Requirement, [*project["dependencies"], *extras]):
            if not need.name.startswith("pentad-"):
                assert need.specifier.contains(locked[canonicalize_name(need.name)]), need
