"""``pentad doctor`` finds what is missing, slow or broken, and says how to mend it."""

import importlib.metadata
import os
import platform
from email.message import Message
from types import SimpleNamespace

import pytest
import torch

from pentad.core import doctor
from pentad.core.layers.machine_code import cache_folder


class Installed:
    """A distribution as the installer leaves it."""

    def __init__(self, requires=(), extras=()):
        self.requires = list(requires)
        self.metadata = Message()
        for extra in extras:
            self.metadata["Provides-Extra"] = extra


@pytest.fixture
def machine(monkeypatch):
    """A machine on which torch 2.6 and laspy without its extra are installed."""
    pages = 'pages>=2; extra == "pdf"'
    held = {
        "pentad-core": Installed(["torch>=2.6", 'onnx>=1.17; extra == "onnx"'], ["onnx"]),
        "pentad-air": Installed(
            ["pentad-core==0.1.0", "torch>=2.8", "laspy[lazrs]>=2", pages, 'pentad-core[onnx]==0.1.0; extra == "onnx"'],
            ["onnx", "pdf"],
        ),
        "laspy": Installed(['lazrs>=0.5; extra == "lazrs"']),
    }
    versions = {"pentad-core": "0.1.0", "pentad-air": "0.1.0", "torch": "2.6.0", "laspy": "2.6"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor, "distribution", held.__getitem__)
    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(
        doctor, "code_version", lambda: {"pentad-air": "0.1.0", "pentad-core": "0.1.0", "source": "00ff"}
    )


def test_what_is_missing_or_too_old_is_named_also_behind_extras(machine):
    assert doctor.missing("pentad-core") == []
    assert doctor.missing("pentad-air") == ["torch>=2.8", "lazrs>=0.5"]
    assert doctor.missing("pentad-air", "onnx") == ["onnx>=1.17"]


def test_every_package_and_extra_has_a_line_with_the_command_that_mends_it(machine):
    assert dict(doctor._packages()) == {
        "pentad-air": "0.1.0, needs torch>=2.8, lazrs>=0.5: pip install 'pentad-air==0.1.0'",
        "pentad-air[onnx]": "not installed: pip install 'pentad-air[onnx]' brings onnx>=1.17",
        "pentad-air[pdf]": "not installed: pip install 'pentad-air[pdf]' brings pages>=2",
        "pentad-core": "0.1.0, complete",
        "pentad-core[onnx]": "not installed: pip install 'pentad-core[onnx]' brings onnx>=1.17",
        "source": "00ff",
    }


def test_threads_that_are_held_back_are_called_slow():
    assert "unset OMP_NUM_THREADS" in doctor._threads(1, 4)
    assert doctor._threads(4, 4) == "4 of 4 cores"


def test_the_cache_says_whether_operators_are_compiled(tmp_path):
    assert "empty" in doctor._cache(tmp_path / "none" / "yet")
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "forward-float.o").write_text("")
    assert "1 compiled operators" in doctor._cache(tmp_path)


def test_a_domain_that_cannot_be_examined_hides_no_other():
    def broken():
        raise ImportError("libusb")

    assert doctor._of_domain("air", broken) == [("air", "cannot be examined (ImportError); install pentad-air again")]
    assert doctor._of_domain("air", lambda: lambda: [("wings", "two")]) == [("wings", "two")]


def test_the_cache_says_how_much_room_it_has_and_whether_it_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=7 * 2**30))
    empty = "empty: the first selective scan compiles for about ten seconds"
    assert doctor._cache(tmp_path / "none" / "yet") == f"{tmp_path / 'none' / 'yet'}, {empty}, 7 GiB free"
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: (path, mode) != (tmp_path, doctor.os.W_OK))
    assert doctor._cache(tmp_path / "none") == (
        f"{tmp_path / 'none'}, slow: read-only, so operators are compiled anew in each run; set XDG_CACHE_HOME"
    )


def test_more_threads_than_cores_are_not_slow():
    assert doctor._threads(8, 4) == "8 of 4 cores"
    assert doctor._threads(3, 4).startswith("3 of 4 cores: slower than it could be")


def test_what_decides_the_speed_is_told(monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    told = dict(doctor._speed())
    assert told["torch"] == torch.__version__
    assert told["threads"].startswith(f"{torch.get_num_threads()} of {len(os.sched_getaffinity(0))} cores")
    assert told["selective scan: numba"].startswith("used on cpu")
    assert str(cache_folder()) in told["cache"]
    assert "start-up" not in told
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert "unset it" in dict(doctor._speed())["start-up"]


def test_findings_tell_the_python_the_domains_and_what_lacks(monkeypatch):
    monkeypatch.setattr(doctor, "_packages", lambda: iter([("pentad-core", "complete")]))
    monkeypatch.setattr(doctor, "_speed", lambda: iter([("torch", "2")]))
    monkeypatch.setattr(doctor, "git_commit", lambda: "")
    found = doctor.findings()
    assert [name for name, _ in found[:4]] == ["pentad-core", "commit", "python", "torch"]
    told = dict(found)
    assert told["commit"] == "not a checkout"
    assert told["python"].startswith(platform.python_version())
    assert {"audio", "medical", "nlp"} <= set(told["domains"].split(", "))
    assert told["dvc"] == "installed"
    monkeypatch.setattr(doctor, "git_commit", lambda: "abc-dirty")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "entry_points", lambda group: [])
    told = dict(doctor.findings())
    assert told["commit"] == "abc-dirty"
    assert told["dvc"].startswith("missing (pip install dvc)")
    assert told["domains"].startswith("none: install one")
