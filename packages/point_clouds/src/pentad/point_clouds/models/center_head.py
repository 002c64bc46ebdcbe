"""The head: one small convolutional branch per property of the boxes, on the map seen from above.

Paper: Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021, arXiv 2006.11275, with the branch for
intersection over union that FlatFormer publishes (mit-han-lab/flatformer, no licence file). Deviation: the heatmap's
bias starts at -2.19, as the paper's code intends; the published code never sets it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from pentad.core.errors import ModelError

SHARED_EPS = 1e-3
_HEATMAP_BIAS = -2.19  # a score of 0.1 everywhere at the start


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of the head."""

    classes: int = 3
    """Classes of objects."""
    width: int = 64
    """Channels that the branches share."""
    branch_width: int = 64
    """Channels inside each branch."""
    convolutions: int = 2
    """3x3 convolutions of each branch, with the last."""
    velocity: bool = True
    """Have a branch for vx, vy."""
    iou: bool = True
    """Have a branch for the overlap of a box with the truth, which corrects its score."""

    def __post_init__(self) -> None:
        if min(self.classes, self.width, self.branch_width, self.convolutions) < 1:
            raise ModelError("PTD-881", f"no head has the sizes {self}", "give positive numbers")

    @property
    def branches(self) -> dict[str, int]:
        """Channels of each branch by name, in the published order.

        reg: offset x, y inside the cell, in cells; height: z of the centre in m; dim: log of width, length and height;
        rot: sine and cosine of the yaw; vel: vx, vy in m/s; iou; heatmap: a logit per class. Width, length and yaw are
        those of `pentad.point_clouds.boxes.to_clockwise`.
        """
        named = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1, "heatmap": self.classes}
        left_out = {"vel": not self.velocity, "iou": not self.iou}
        return {name: channels for name, channels in named.items() if not left_out.get(name, False)}


class ConvNorm(nn.Module):
    """A 3x3 convolution without bias, a norm and a ReLU."""

    def __init__(self, channels: int, width: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return (b, width, h, w) for ``x`` (b, channels, h, w)."""
        return functional.relu(self.bn(self.conv(x)))


class CenterHead(nn.Module):
    """The map seen from above to the maps of every property."""

    def __init__(self, channels: int, config: HeadConfig) -> None:
        super().__init__()
        self.shared_conv = ConvNorm(channels, config.width, SHARED_EPS)
        self.branches = nn.ModuleDict()
        for name, out in config.branches.items():
            entries = (config.width, *(config.branch_width for _ in range(config.convolutions - 1)))
            hidden = [ConvNorm(entry, config.branch_width, 1e-5) for entry in entries[:-1]]
            self.branches[name] = nn.Sequential(*hidden, nn.Conv2d(entries[-1], out, 3, padding=1))
        last = self.branches["heatmap"].get_submodule(str(config.convolutions - 1))
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.constant_(last.bias, _HEATMAP_BIAS)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the raw map (b, channels, h, w) of each branch; no sigmoid.

        Args:
            x: (b, channels, h, w).
        """
        x = self.shared_conv(x)
        return {name: branch(x) for name, branch in self.branches.items()}
