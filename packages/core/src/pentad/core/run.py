"""What makes a run repeatable: seeds, the device, and the statement of which code and inputs made a result."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import random
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pentad.core
from pentad.core.errors import UsageError
from pentad.core.files import digest_files

if TYPE_CHECKING:
    import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and ask torch for algorithms that repeat their bits."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Torch would then also fill each new tensor before it is written to, a tenth or more of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def pick_device(name: str = "auto") -> torch.device:
    """Return the torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: The name is none of these, or the device is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError("PTD-220", f"'{name}' is no device", "give auto, cpu, cuda or cuda:N to --device")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UsageError(
            "PTD-221", f"'{name}' is not on this machine ({torch.cuda.device_count()} CUDA devices)", "use --device cpu"
        )
    return torch.device(name)


@functools.cache
def code_version(domain: str = "") -> dict[str, str]:
    """Return the versions of core and one domain and a digest of their source files.

    The digest depends on the source's content alone, so it is equal in every clone and wheel of one state.

    Args:
        domain: Such as 'medical'; without one, every installed pentad package counts.
    """
    wanted = {"pentad-core", f"pentad-{domain.replace('_', '-')}"}
    versions = {
        name: distribution.version
        for distribution in importlib.metadata.distributions()
        if (name := distribution.metadata["Name"]) and name.startswith("pentad-") and (not domain or name in wanted)
    }
    modules = [importlib.util.find_spec(name.replace("-", ".", 1).replace("-", "_")) for name in versions]
    folders = [folder for spec in modules if spec for folder in spec.submodule_search_locations or []]
    sources = [path for folder in folders for path in Path(folder).rglob("*.py")]
    return {**dict(sorted(versions.items())), "source": digest_files(sources)[:16]}


@functools.cache
def git_commit() -> str:
    """Return the commit of the checkout the core runs from, ``-dirty`` if it was edited, or empty without one."""
    folder = Path(pentad.core.__path__[0])
    try:
        call = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def provenance(domain: str = "", *, seed: int | None = None, **digests: str) -> dict[str, Any]:
    """Return what a result file says of its making: code version, seed and the digests given by name.

    Args:
        domain: Whose code made the result, beside core's; without one, all that is installed is stated.
        seed: Seed of the run, where there is one.
        digests: For instance ``model=…``, ``config=…``, ``data=…``: SHA-256 in hexadecimal digits.
    """
    statement: dict[str, Any] = {"code": code_version(domain), **digests}
    return statement if seed is None else {**statement, "seed": seed}


def environment() -> dict[str, str]:
    """Return the commit and the versions of what the installed pentad packages ask for, for a run's own record."""
    found = {"commit": git_commit()}
    for package in code_version():
        requirements = importlib.metadata.requires(package) or [] if package.startswith("pentad-") else []
        for name in (re.split(r"[^\w.-]", requirement)[0] for requirement in requirements):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found
