"""The models by name, and how a plan becomes one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from pentad.core.errors import ModelError, nearest
from pentad.medical.models.baseline import DynUNet, DynUNetConfig
from pentad.medical.models.hiformer import DIVISOR, HiFormer, HiFormerConfig, hiformer_b, hiformer_l, hiformer_s
from pentad.medical.models.swin_unet import SwinUNet, SwinUNetConfig, swin_unet_tiny
from pentad.medical.models.u_mamba import UMambaBot, UMambaConfig, UMambaEnc
from pentad.medical.plan import Plan

Config = UMambaConfig | DynUNetConfig | SwinUNetConfig | HiFormerConfig

MODELS: dict[str, tuple[type[Config], type[nn.Module]]] = {
    "u_mamba_bot": (UMambaConfig, UMambaBot),
    "u_mamba_enc": (UMambaConfig, UMambaEnc),
    "swin_unet": (SwinUNetConfig, SwinUNet),
    "hiformer_s": (HiFormerConfig, HiFormer),
    "hiformer_b": (HiFormerConfig, HiFormer),
    "hiformer_l": (HiFormerConfig, HiFormer),
    "dynunet": (DynUNetConfig, DynUNet),
}

PRESETS: dict[str, Callable[[int], SwinUNetConfig | HiFormerConfig]] = {
    "swin_unet": swin_unet_tiny,
    "hiformer_s": hiformer_s,
    "hiformer_b": hiformer_b,
    "hiformer_l": hiformer_l,
}
"""Models whose size is the published one, whatever the plan says: from the number of classes to a configuration."""


def known(name: str) -> str:
    """Return the name if it is a model's.

    Raises:
        ModelError: There is no such model.
    """
    if name not in MODELS:
        raise ModelError(
            "PTD-296", f"there is no model '{name}'{nearest(name, MODELS)}", f"choose one of {', '.join(MODELS)}"
        )
    return name


def fitted(name: str, plan: Plan) -> Plan:
    """Return the plan with its patch rounded up to what the model computes with anyway, where it would pad.

    Raises:
        ModelError: There is no such model, or it is 2-D and the plan is not.
    """
    if known(name) not in PRESETS:
        return plan
    if plan.dimensions != 2:
        problem = f"{name} segments slices, and the plan is '{plan.configuration}'"
        raise ModelError("PTD-533", problem, "plan with configuration: 2d, or choose a model that is built in 3-D")
    preset = PRESETS[name](len(plan.labels))
    divisor = preset.divisor if isinstance(preset, SwinUNetConfig) else DIVISOR
    return replace(plan, patch_size=tuple(-(-length // divisor) * divisor for length in plan.patch_size))


def config_for(name: str, plan: Plan, *, deep_supervision: bool = True) -> Config:
    """Return the configuration of the model ``name`` for a plan; Swin-UNet and HiFormer have no deep supervision.

    Raises:
        ModelError: There is no such model, or it is 2-D and the plan is not.
    """
    plan = fitted(name, plan)
    if name in PRESETS:
        preset = PRESETS[name](len(plan.labels))
        # ImageNet's encoders, which these start from, take three channels: a single one is repeated.
        channels = len(plan.channels) if len(plan.channels) > 1 else 3
        if isinstance(preset, HiFormerConfig):
            preset = replace(preset, image_size=(plan.patch_size[0], plan.patch_size[1]))
        return replace(preset, input_channels=channels)
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
