"""Which stages of a pipeline would run, told from its files and lock alone, also where nothing has been made yet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pentad.core.errors import UsageError


def _stages(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stages in file order, a matrix stage once for each combination with its name as DVC writes it."""
    file = folder / "dvc.yaml"
    if not file.is_file():
        raise UsageError(
            "PTD-224", "no dvc.yaml here", "name the folder of a pipeline, say pipelines/liver_seg", folder
        )
    for name, stage in (yaml.safe_load(file.read_text(encoding="utf-8")).get("stages") or {}).items():
        combinations = itertools.product(*stage["matrix"].values()) if "matrix" in stage else [()]
        for values in combinations:
            yield "@".join([name, "-".join(map(str, values))] if values else [name]), stage


def explain(folder: Path) -> list[tuple[str, str]]:
    """Return (stage, what would happen and why) for every stage of the pipeline in ``folder``.

    DVC's own dry run stops at the first stage whose input has not been made. This one asks DVC for the
    stages that changed and passes the news on: a stage that would run makes the stages below it run.

    Raises:
        UsageError: There is no pipeline in the folder, or DVC is not installed.
    """
    try:
        from dvc.repo import Repo
    except ImportError:
        raise UsageError("PTD-225", "DVC is not installed", "install it with pip install dvc") from None
    stages = dict(_stages(folder))
    with Repo(str(folder)) as repo:
        changed = repo.status(targets=[str(folder / "dvc.yaml")])
        by_name = {stage.addressing.rpartition(":")[2]: stage for stage in repo.index.stages if stage.path_in_repo}
        reasons: dict[str, str] = {}
        made_by = {str(out): name for name, stage in by_name.items() for out in stage.outs}
        answer = []
        for name in stages:
            stage = by_name[name]
            news = next((entry for key, entry in changed.items() if key.rpartition(":")[2] == name), None)
            above = [made_by[str(dep)] for dep in stage.deps if made_by.get(str(dep)) in reasons]
            if news is not None:
                reasons[name] = _tell(news)
            elif above:
                reasons[name] = f"runs: after {', '.join(above)}"
            answer.append((name, reasons.get(name, "up to date")))
    return answer


def _tell(news: list[Any]) -> str:
    parts = []
    for entry in news:
        if isinstance(entry, str):
            parts.append(entry)
        else:
            parts += [f"{path} {state}" for inner in entry.values() for path, state in inner.items()]
    return f"runs: {'; '.join(parts)}"
