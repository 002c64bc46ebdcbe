"""Which stages of a pipeline would run, also where nothing has been made yet and DVC's own dry run stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pentad.core.errors import UsageError

_SHOWN = 3


def explain(folder: Path) -> list[tuple[str, str]]:
    """Return (stage, whether and why it would run) for every stage of the pipeline in ``folder``, in its order.

    DVC says which stages differ from their lock; a stage below one that would run would run too.

    Raises:
        UsageError: There is no pipeline in the folder, or DVC is not installed.
    """
    file = (folder / "dvc.yaml").resolve()
    if not file.is_file():
        raise UsageError(
            "PTD-224", "no dvc.yaml here", "name the folder of a pipeline, say pipelines/liver_seg", folder
        )
    try:
        from dvc.repo import Repo
    except ImportError:
        raise UsageError("PTD-225", "DVC is not installed", "install it with pip install dvc") from None
    with Repo(str(folder)) as repo:
        stages = [stage for stage in repo.index.stages if Path(stage.path) == file]
        news = {key.rpartition(":")[2]: changes for key, changes in repo.status(targets=[str(file)]).items()}
        reasons: dict[str, str] = {}
        for stage in stages:
            above = [other.name for other in stages if other.name in reasons and _feeds(other, stage)]
            if stage.name in news:
                reasons[stage.name] = _tell(news[stage.name])
            elif above:
                reasons[stage.name] = f"runs: after {', '.join(above)}"
        return [(stage.name, reasons.get(stage.name, "up to date")) for stage in stages]


def _feeds(stage: Any, other: Any) -> bool:
    needed = [Path(dep.fs_path) for dep in other.deps]
    made = [Path(out.fs_path) for out in stage.outs]
    return any(out == dep or dep in out.parents or out in dep.parents for out in made for dep in needed)


def _tell(changes: list[Any]) -> str:
    parts = []
    for change in changes:
        if isinstance(change, str):
            parts.append(change)
        else:
            parts += [f"{path} {state}" for inner in change.values() for path, state in inner.items()]
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return f"runs: {'; '.join(parts[:_SHOWN])}{more}"
