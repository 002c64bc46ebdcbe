"""The models of remote sensing by name."""

from __future__ import annotations

from torch import nn

from pentad.remote_sensing.models.change_mamba import ChangeMambaConfig, MambaBCD, MambaBDA, MambaSCD

MODELS: dict[str, tuple[type[ChangeMambaConfig], type[nn.Module]]] = {
    "mamba_bcd": (ChangeMambaConfig, MambaBCD),
    "mamba_scd": (ChangeMambaConfig, MambaSCD),
    "mamba_bda": (ChangeMambaConfig, MambaBDA),
}
