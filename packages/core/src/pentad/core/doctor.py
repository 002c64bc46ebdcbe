"""What ``pentad doctor`` finds: versions, devices, the speed of the operators, what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib.metadata import entry_points
from pathlib import Path

from pentad.core.run import code_version, git_commit


def _writable(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    state = "writable" if os.access(existing, os.W_OK) else "read-only: compiled operators are made anew in each run"
    return f"{folder} ({state}, {free:.0f} GiB free)"


def findings() -> list[tuple[str, str]]:
    """Return (subject, state) pairs; a state that needs mending says how."""
    import torch

    from pentad.core.layers.machine_code import cache_folder
    from pentad.core.layers.selective_scan import available_backends

    found = [(name, version) for name, version in code_version().items()]
    found.append(("commit", git_commit() or "not a checkout"))
    found.append(("python", f"{platform.python_version()} on {platform.machine()}"))
    found.append(("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"))
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found.append(("GPU", ", ".join(devices) or "none: everything runs on the CPU, with the same numbers"))
    found += [(f"selective scan: {name}", state) for name, state in available_backends().items()]
    found.append(("cache", _writable(cache_folder())))
    domains = [entry.name for entry in entry_points(group="pentad.domains")]
    found.append(("domains", ", ".join(sorted(domains)) or "none: install one, say pip install pentad-medical"))
    for module, use in (("dvc", "pipelines; each stage also runs as its own command"),):
        state = "installed" if importlib.util.find_spec(module) else f"missing (pip install {module}): {use}"
        found.append((module, state))
    return found
