"""Instance norm at the speed that a convolution leaves it: torch's own costs more than many a narrow convolution.

torch computes instance norm as a batch norm of one sample with as many channels as the batch has maps. Group norm of
one channel a group has the same mean, variance, weights and bias in fewer passes over memory, and `convolution` has
loops that apply the rectifier in the same go. Training keeps torch's path, so that a model's weights do not hang on
which of them is quicker; only the last bits of a prediction do.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pentad.medical.models.convolution import normalise_, predicts


class InstanceNorm2d(nn.InstanceNorm2d):
    """Instance norm of maps (b, c, y, x); in evaluation by group norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Return every map less its mean, over its standard deviation, times weight plus bias."""
        return super().forward(x) if self.training else _by_groups(self, x)


class InstanceNorm3d(nn.InstanceNorm3d):
    """The same of maps (b, c, z, y, x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return every map less its mean, over its standard deviation, times weight plus bias."""
        return super().forward(x) if self.training else _by_groups(self, x)


NORM: dict[int, Any] = {2: InstanceNorm2d, 3: InstanceNorm3d}
"""Class by number of spatial axes."""


def activated(norm: nn.Module, x: Tensor, slope: float) -> Tensor:
    """Return the leaky rectifier of the norm of ``x``, which may be overwritten: it must be the caller's own.

    Args:
        norm: One of these classes, affine.
        x: Maps (b, c, …).
        slope: Of the rectifier below 0.
    """
    if isinstance(norm, InstanceNorm2d | InstanceNorm3d) and norm.affine and not norm.training:
        if x.is_contiguous() and x.numel() and predicts(x):
            return normalise_(x, norm, slope)
    return functional.leaky_relu(norm(x), slope, inplace=True)


def _by_groups(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor) -> Tensor:
    return functional.group_norm(x, norm.num_features, norm.weight, norm.bias, norm.eps)
