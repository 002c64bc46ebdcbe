"""The models by name, and how a plan becomes one of them."""

from __future__ import annotations

from torch import nn

from pentad.core.errors import ModelError, nearest
from pentad.medical.models.baseline import DynUNet, DynUNetConfig
from pentad.medical.models.u_mamba import UMambaBot, UMambaConfig, UMambaEnc
from pentad.medical.plan import Plan

Config = UMambaConfig | DynUNetConfig

MODELS: dict[str, tuple[type[Config], type[nn.Module]]] = {
    "u_mamba_bot": (UMambaConfig, UMambaBot),
    "u_mamba_enc": (UMambaConfig, UMambaEnc),
    "dynunet": (DynUNetConfig, DynUNet),
}


def config_for(name: str, plan: Plan, *, deep_supervision: bool = True) -> Config:
    """Return the configuration of the model ``name`` for a plan.

    Raises:
        ModelError: There is no such model.
    """
    if name not in MODELS:
        raise ModelError(
            "PTD-296", f"there is no model '{name}'{nearest(name, MODELS)}", f"choose one of {', '.join(MODELS)}"
        )
    if MODELS[name][0] is DynUNetConfig:
        return DynUNetConfig(
            input_channels=len(plan.channels),
            classes=len(plan.labels),
            features=plan.features,
            kernel_sizes=plan.kernel_sizes,
            strides=plan.strides,
            deep_supervision=deep_supervision,
        )
    return UMambaConfig(
        input_channels=len(plan.channels),
        classes=len(plan.labels),
        patch_size=plan.patch_size,
        features=plan.features,
        kernel_sizes=plan.kernel_sizes,
        strides=plan.strides,
        encoder_blocks=plan.encoder_blocks,
        decoder_blocks=plan.decoder_blocks,
        deep_supervision=deep_supervision,
    )


def build(name: str, plan: Plan, *, deep_supervision: bool = True) -> nn.Module:
    """Return the untrained model ``name`` for a plan; seed torch first to repeat its weights.

    Raises:
        ModelError: There is no such model, or the plan does not fit it.
    """
    config = config_for(name, plan, deep_supervision=deep_supervision)
    return MODELS[name][1](config)
