"""The models of remote sensing by name."""

from __future__ import annotations

from torch import nn

from pentad.remote_sensing.models.change_mamba import ChangeMambaConfig, MambaBCD, MambaBDA, MambaSCD
from pentad.remote_sensing.models.fc_siam import FCSiamConc, FCSiamConfig, FCSiamDiff

MODELS: dict[str, tuple[type[ChangeMambaConfig] | type[FCSiamConfig], type[nn.Module]]] = {
    "mamba_bcd": (ChangeMambaConfig, MambaBCD),
    "mamba_scd": (ChangeMambaConfig, MambaSCD),
    "mamba_bda": (ChangeMambaConfig, MambaBDA),
    "fc_siam_diff": (FCSiamConfig, FCSiamDiff),
    "fc_siam_conc": (FCSiamConfig, FCSiamConc),
}
