"""Scores of a long recording's windows on the disk, so that a run killed in its middle goes on there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pentad.core.checkpoint import read_checkpoint, write_tensors
from pentad.core.errors import ModelError


class Scored(NamedTuple):
    """What a model says of a batch of windows, on the CPU."""

    clip: Tensor
    """Probabilities of the windows (windows, classes)."""
    steps: Tensor
    """The same over time (windows, steps, classes)."""
    embedding: Tensor
    """(windows, width)."""


@dataclass(frozen=True)
class KeptScores:
    """Scores by the number of their batch; a file is whole or not there."""

    folder: Path
    """From `pentad.core.batch.kept_folder`, whose key says what the scores depend on."""

    def get(self, number: int) -> Scored | None:
        """Return what an earlier start found, None where it did not get so far."""
        try:
            found = read_checkpoint(self._file(number))
        except ModelError:
            return None
        return Scored(**found)

    def put(self, number: int, scored: Scored) -> None:
        """Write the scores of a batch."""
        # A model may answer with strided tensors or views of each other, which the file's format cannot hold.
        whole = {name: found.clone(memory_format=torch.contiguous_format) for name, found in scored._asdict().items()}
        write_tensors(self._file(number), whole)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"
