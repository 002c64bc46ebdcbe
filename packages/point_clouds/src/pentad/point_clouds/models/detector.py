"""What every detector here shares: pillars, a map seen from above, convolutions on it, and the head."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pentad.core.bundle import PublishedModel
from pentad.point_clouds.grid import GridConfig, MapGrid
from pentad.point_clouds.models.bev import BackboneConfig, Neck, Second, scatter_bev
from pentad.point_clouds.models.center_head import CenterHead, HeadConfig
from pentad.point_clouds.models.pillars import PillarEncoder, Pillars


class Detector(PublishedModel):
    """A sweep's points to the raw maps of the head.

    Args:
        config: With ``grid``, ``columns``, ``pillar_widths``, ``backbone`` and ``head``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        backbone: BackboneConfig = config.backbone
        head: HeadConfig = config.head
        self.grid: GridConfig = config.grid
        self.map_grid = MapGrid(self.grid, backbone.strides[0])
        self.voxel_encoder = PillarEncoder(config.columns, config.pillar_widths, self.grid)
        self.backbone = Second(config.pillar_widths[-1], backbone)
        self.neck = Neck(backbone)
        self.bbox_head = CenterHead(sum(backbone.neck_widths), head)

    def encode(self, features: Tensor, pillars: Pillars) -> Tensor:
        """Return the pillars' features (n, c) after they have seen each other; unchanged unless a model does more."""
        return features

    def bev(self, features: Tensor, pillars: Pillars) -> Tensor:
        """Return the map seen from above, (b, c, ny, nx), for the pillars' features (n, c)."""
        return scatter_bev(features, pillars.cells, (len(pillars.counts), *self.grid.shape))

    def forward(self, points: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """Return the head's raw maps by branch, each (b, channels, ny / stride, nx / stride).

        Args:
            points: The samples' points one after another, (p, columns): x, y, z in m, then columns of the size of 1
                (intensity, elongation or age as in training). Those outside the grid's range are left out.
            counts: Points of each sample, whole numbers (b,); 0 for an empty sweep.

        Raises:
            UsageError: Points or counts have another shape (PTD-882).
        """
        pillars = self.voxel_encoder.find(points, counts)
        features = self.encode(self.voxel_encoder(pillars), pillars)
        maps: dict[str, Tensor] = self.bbox_head(self.neck(self.backbone(self.bev(features, pillars))))
        return maps
