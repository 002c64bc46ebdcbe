"""PointPillars: the convolutional baseline, with the same pillars and the same head as FlatFormer.

Paper: Lang et al., "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019, arXiv 1812.05784.
Written from the paper; deviations: the head is the CenterPoint-style one, so that only what lies between pillars and
head differs from FlatFormer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.models.bev import BackboneConfig
from pentad.point_clouds.models.center_head import HeadConfig
from pentad.point_clouds.models.detector import Detector


@dataclass(frozen=True)
class PointPillarsConfig:
    """A network's sizes."""

    grid: GridConfig = field(default_factory=GridConfig)
    """The cells."""
    columns: int = 5
    """Numbers per point."""
    pillar_widths: tuple[int, ...] = (64,)
    """Channels of the pillar encoder's layers."""
    backbone: BackboneConfig = field(
        default_factory=lambda: BackboneConfig(
            widths=(64, 128, 256),
            depths=(3, 5, 5),
            strides=(2, 2, 2),
            neck_widths=(128, 128, 128),
            residual=False,
        )
    )
    """The convolutions; the first stage's stride is that of the head's maps."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The head."""


class PointPillars(Detector):
    """Detection by convolutions alone."""

    config: PointPillarsConfig

    def __init__(self, config: PointPillarsConfig) -> None:
        super().__init__(config)
