from __future__ import annotations

import pytest
import torch
from torch import nn

from pentad.medical.models.norms import NORM

SHAPES = {2: (3, 5, 7, 6), 3: (2, 5, 4, 7, 6)}
TORCH = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def pair(axes):
    """Torch's norm and ours with the same weights, in float64."""
    theirs, ours = TORCH[axes](5, affine=True).double(), NORM[axes](5, affine=True).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.linspace(0.5, 2, 5))
        theirs.bias.copy_(torch.linspace(-1, 1, 5))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("axes", [2, 3])
def test_evaluation_gives_what_torch_gives(axes):
    theirs, ours = pair(axes)
    maps = torch.randn(SHAPES[axes], dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 40
    assert torch.allclose(ours.eval()(maps), theirs(maps), rtol=0, atol=1e-12)


@pytest.mark.parametrize("axes", [2, 3])
def test_training_gives_torchs_bits(axes):
    theirs, ours = pair(axes)
    maps = torch.randn(SHAPES[axes], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.train()(maps), theirs.train()(maps))
