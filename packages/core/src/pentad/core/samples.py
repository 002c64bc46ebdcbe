"""Write the sample data of every installed domain."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from importlib.metadata import entry_points
from pathlib import Path

from pentad.core.errors import UsageError
from pentad.core.files import digest_file, digest_json, write_json
from pentad.core.run import code_version

log = logging.getLogger(__name__)

_STATEMENT = ".samples.json"  # beside the data folder: which code wrote what


def tree_digest(root: Path) -> str:
    """Return one SHA-256 over the names and contents of all files below ``root``."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return digest_json([[path.relative_to(root).as_posix(), digest_file(path)] for path in files])


def _statement_file(root: Path) -> Path:
    return root.parent / f".{root.name}{_STATEMENT}"


def write_samples(root: Path) -> None:
    """Write every domain's samples below ``root``; those the same code has already written are left alone.

    The samples' bytes depend on the code alone. Whole sample folders (``root/<domain>/<dataset>``) are
    replaced; other folders beside them are the user's and stay.

    Raises:
        UsageError: No installed package brings samples.
    """
    writers = sorted(entry_points(group="pentad.samples"))
    if not writers:
        raise UsageError("PTD-222", "no installed package brings sample data", "install one, say pentad-medical")
    if _is_current(root):
        log.info("the samples in %s are current", root)
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    for writer in writers:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=".samples-") as place:
            writer.load()(Path(place))
            for dataset in sorted(path for path in Path(place).glob("*/*") if path.is_dir()):
                name = dataset.relative_to(place).as_posix()
                target = root / name
                if target.exists():
                    shutil.rmtree(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(dataset, target)
                written[name] = tree_digest(target)
        log.info("wrote the samples of %s in %.0f s", writer.name, time.monotonic() - start)
    write_json(_statement_file(root), {"source": code_version()["source"], "datasets": written})


def _is_current(root: Path) -> bool:
    statement = _statement_file(root)
    if not statement.is_file():
        return False
    content = json.loads(statement.read_text(encoding="utf-8"))
    return content["source"] == code_version()["source"] and all(
        tree_digest(root / name) == digest for name, digest in content["datasets"].items()
    )
