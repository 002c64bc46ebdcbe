"""What ``pentad doctor`` finds: versions, devices, what is fast, what is slow or missing, and how to mend it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, entry_points, version
from pathlib import Path

from packaging.requirements import Requirement

from pentad.core.run import code_version, git_commit

GROUP = "pentad.doctor"
"""Entry points of domains: callables without arguments that return (subject, state) pairs of their own."""

Finding = tuple[str, str]


def findings() -> list[Finding]:
    """Return (subject, state) pairs; a state that needs mending says how."""
    found = list(_packages())
    found.append(("commit", git_commit() or "not a checkout"))
    found.append(("python", f"{platform.python_version()} on {platform.machine()}"))
    found += _speed()
    for entry in sorted(entry_points(group=GROUP)):
        found += _of_domain(entry.name, entry.load)
    domains = [entry.name for entry in entry_points(group="pentad.domains")]
    found.append(("domains", ", ".join(sorted(domains)) or "none: install one, say pip install pentad-medical"))
    mend = "missing (pip install dvc): pipelines; each stage also runs as its own command"
    found.append(("dvc", "installed" if importlib.util.find_spec("dvc") else mend))
    return found


def _packages() -> Iterator[Finding]:
    """Give each installed package with what it lacks, then each of its extras."""
    versions = {name: number for name, number in code_version().items() if name != "source"}
    for name, number in versions.items():
        lacking = missing(name)
        state = f"needs {', '.join(lacking)}: pip install '{name}=={number}'" if lacking else "complete"
        yield name, f"{number}, {state}"
        for extra in sorted(distribution(name).metadata.get_all("Provides-Extra") or ()):
            lacking = missing(name, extra)
            mend = f"not installed: pip install '{name}[{extra}]' brings {', '.join(lacking)}"
            yield f"{name}[{extra}]", mend if lacking else "installed"
    yield "source", code_version()["source"]


def missing(name: str, extra: str = "") -> list[str]:
    """Return the requirements of an installed distribution that are not met, as they are written.

    Args:
        name: Of the distribution, such as ``pentad-medical``.
        extra: Only what this extra adds; extras that requirements name in their turn are followed.
    """
    lacking = []
    for text in distribution(name).requires or ():
        need = Requirement(text)
        plain = need.marker is None or need.marker.evaluate({"extra": ""})
        if plain if extra else not plain:
            continue
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        lacking += [f"{need.name}{need.specifier}"] if not _met(need) else []
        lacking += [one for inner in sorted(need.extras) if _met(need) for one in missing(need.name, inner)]
    return lacking


def _met(need: Requirement) -> bool:
    try:
        return need.specifier.contains(version(need.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _speed() -> Iterator[Finding]:
    """Give what decides how fast things go on this machine."""
    import torch

    from pentad.core.layers.machine_code import cache_folder
    from pentad.core.layers.selective_scan import available_backends

    yield "torch", torch.__version__
    yield "threads", _threads(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield "GPU", ", ".join(devices) or "none: everything runs on the CPU, with the same numbers"
    yield from ((f"selective scan: {name}", state) for name, state in available_backends().items())
    yield "cache", _cache(cache_folder())
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        yield "start-up", "slow: PYTHONDONTWRITEBYTECODE is set, so every start compiles all modules anew; unset it"


def _threads(threads: int, cores: int) -> str:
    if threads < cores:
        return f"{threads} of {cores} cores: slower than it could be; unset OMP_NUM_THREADS, unless --workers uses them"
    return f"{threads} of {cores} cores"


def _cache(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if not os.access(existing, os.W_OK):
        return f"{folder}, slow: read-only, so operators are compiled anew in each run; set XDG_CACHE_HOME"
    kept = sum(1 for _ in folder.glob("*/*.o"))
    state = f"{kept} compiled operators" if kept else "empty: the first selective scan compiles for about ten seconds"
    return f"{folder}, {state}, {free:.0f} GiB free"


def _of_domain(name: str, load: Callable[[], Callable[[], list[Finding]]]) -> list[Finding]:
    """Return a domain's own findings, or that they cannot be had: a broken package must not hide the others."""
    try:
        return load()()
    except Exception as error:
        return [(name, f"cannot be examined ({type(error).__name__}); install pentad-{name} again")]
