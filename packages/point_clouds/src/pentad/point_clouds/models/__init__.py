"""The models of point clouds by name."""

from __future__ import annotations

from torch import nn

from pentad.point_clouds.models.flatformer import FlatFormer, FlatFormerConfig
from pentad.point_clouds.models.point_pillars import PointPillars, PointPillarsConfig

MODELS: dict[str, tuple[type[FlatFormerConfig] | type[PointPillarsConfig], type[nn.Module]]] = {
    "flatformer": (FlatFormerConfig, FlatFormer),
    "point_pillars": (PointPillarsConfig, PointPillars),
}
