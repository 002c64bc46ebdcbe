"""Two training processes over gloo on this machine against one with twice the batch."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from core.small_training import FULL, Points, squared_error
from core.two_processes import join, start_two
from safetensors.torch import load_file
from torch import nn

from pentad.core.bundle import PublishedModel, save_bundle
from pentad.core.errors import UsageError
from pentad.core.processes import processes, together
from pentad.core.trainer import fit

# Float32 sums in another order, over 40 steps of AdamW.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Sizes:
    hidden: int = 16


class Network(PublishedModel):
    """Neither dropout, which draws in each process for itself, nor batch statistics, which each takes of its share."""

    def __init__(self, config: Sizes) -> None:
        super().__init__(config)
        self.layers = nn.Sequential(nn.Linear(6, config.hidden), nn.Tanh(), nn.Linear(config.hidden, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def train(folder: Path, batch_size: int, resume: bool = False) -> None:
    torch.manual_seed(0)
    model = Network(Sizes())
    config = replace(FULL, batch_size=batch_size)
    fit(model, Points(), squared_error, config, folder / "run", resume=resume)
    words = {"domain": "core", "name": "network", "settings": {}, "card": "# Tiny", "provenance": {}}
    save_bundle(folder / "bundle", model, **words, overwrite=resume)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folder of two processes with batches of 4, and that of one with batches of 8."""
    root = tmp_path_factory.mktemp("processes")
    started = start_two(__file__, root / "two")
    train(root / "one", batch_size=8)
    join(started)
    return root / "two", root / "one"


def test_two_processes_learn_what_one_learns_of_twice_the_batch(both):
    two, one = (load_file(folder / "bundle" / "model.safetensors") for folder in both)
    start = Network(Sizes())
    assert two.keys() == one.keys()
    assert all((two[name] - one[name]).abs().max() < TOLERANCE for name in one)
    assert max((one[name] - start.state_dict()[name]).abs().max() for name in one) > 0.1  # it did learn


def test_only_the_first_process_writes_and_losses_are_those_of_all_samples(both):
    two, one = ([json.loads(line) for line in (f / "run" / "history.jsonl").read_text().splitlines()] for f in both)
    assert [line["step"] for line in two] == [line["step"] for line in one]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=TOLERANCE)
    assert sorted(path.name for path in (both[0] / "bundle").iterdir()) == sorted(
        ["README.md", "bundle.json", "config.json", "model.safetensors"]
    )
    state = json.loads((both[0] / "run" / "checkpoint" / "state.json").read_text())
    assert len(state["random"]) == 2  # each process goes on with its own draws


def test_counts_are_summed_over_the_processes_and_stay_as_they_are_in_each(both):
    first, second = (json.loads((both[0] / f"counted-{rank}.json").read_text()) for rank in "01")
    assert first == {"processes": 2, "together": [2, 1], "share": [1, 0]}
    assert second == {"processes": 2, "together": [2, 1], "share": [1, 1]}
    alone = torch.tensor([1, 1])
    assert (processes(), together(alone) is alone) == (1, True)


def test_a_run_of_two_processes_is_not_resumed_by_one(both):
    with pytest.raises(UsageError, match=r"PTD-231 .*begun with processes 2, not 1"):
        train(both[0], batch_size=4, resume=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), batch_size=4)
    share = torch.tensor([1, int(os.environ["RANK"])])
    counted = {"processes": processes(), "together": together(share).tolist(), "share": share.tolist()}
    Path(sys.argv[1], f"counted-{os.environ['RANK']}.json").write_text(json.dumps(counted))
