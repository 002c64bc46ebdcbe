"""A bundle in the layout of MONAI: configs/metadata.json, configs/inference.json and models/model.pt.

The plain baseline becomes MONAI's own DynUNet, so such a bundle needs nothing of ours; other models are named by their
class here, and ``metadata.json`` asks for this package.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.networks.nets.dynunet import DynUNet as DynUNetOfMonai
from torch import Tensor

from pentad.core.bundle import CARD, Bundle
from pentad.core.config import to_mapping
from pentad.core.export import not_exportable
from pentad.core.files import atomic, write_json
from pentad.core.run import code_version
from pentad.medical.models.baseline import DynUNet, monai_arguments
from pentad.medical.predict import Settings
from pentad.medical.preprocess import Preprocessing

_AXES = "SPL"  # our arrays are (z, y, x), increasing towards head, back and left


def write_monai(bundle: Bundle, settings: Settings, folder: Path) -> None:
    """Write the bundle's network and a description of its use.

    Raises:
        ModelError: MONAI has no transform for the model's normalisation (PTD-594).
    """
    model = bundle.model
    state = monai_state(model) if isinstance(model, DynUNet) else model.state_dict()
    with atomic(folder / "models" / "model.pt") as temporary:
        torch.save({name: tensor.clone() for name, tensor in state.items()}, temporary)
    write_json(folder / "configs" / "metadata.json", _metadata(bundle, settings, own=not isinstance(model, DynUNet)))
    write_json(folder / "configs" / "inference.json", _inference(bundle, settings))
    (folder / "docs").mkdir()
    shutil.copyfile(bundle.folder / CARD, folder / "docs" / CARD)


def monai_state(model: DynUNet) -> dict[str, Tensor]:
    """Return the weights as MONAI's own network has them, which knows most of them by two names."""
    network = DynUNetOfMonai(**monai_arguments(model.config))
    # The names that are missing are second ones of tensors that are there.
    found = network.load_state_dict(model.network.state_dict(), strict=False)
    assert not found.unexpected_keys, f"MONAI's DynUNet has no {', '.join(found.unexpected_keys)}"
    state: dict[str, Tensor] = network.state_dict()
    return state


def _metadata(bundle: Bundle, settings: Settings, *, own: bool) -> dict[str, Any]:
    version = code_version("medical")["pentad-medical"]
    names = {"0": "background", **{str(value): name for name, value in settings.classes.items()}}
    shape = list(settings.patch_size)
    return {
        "version": version,
        "changelog": {version: "exported by pentad-medical"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__,
        "numpy_version": np.__version__,
        "required_packages_version": {"pentad-medical": version} if own else {},
        "optional_packages_version": {"pytorch-ignite": "0.5", "nibabel": "5.3"},
        "name": bundle.name,
        "task": f"segmentation of {', '.join(settings.classes)}",
        "description": f"{bundle.name} of pentad, digest {bundle.digest}. Without pentad's post-processing and "
        "mirroring; resampling by MONAI differs a little from pentad's.",
        "intended_use": "research use only; not a medical device",
        "licences": bundle.licences,
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield",
                    "modality": "CT",
                    "num_channels": 1,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(names),
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": names,
                }
            },
        },
    }


def _inference(bundle: Bundle, settings: Settings) -> dict[str, Any]:
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": _network(bundle),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(settings.preprocessing)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': name} for name in sorted(glob.glob(@dataset_dir + '/*.nii*'))]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": _inferer(settings),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "label"},
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location=@device, weights_only=True)",
        # Not in "initialize", which MONAI's loader runs wherever it was called from.
        "run": ["$@network.load_state_dict(@weights)", "$@evaluator.run()"],
    }


def _network(bundle: Bundle) -> dict[str, Any]:
    model = bundle.model
    config: Any = model.config
    if isinstance(model, DynUNet):
        return {"_target_": "monai.networks.nets.DynUNet", **monai_arguments(config)}
    kinds = [f"{type(part).__module__}.{type(part).__qualname__}" for part in (model, config)]
    return {"_target_": kinds[0], "config": {"_target_": kinds[1], **to_mapping(config)}}


def _preprocessing(settings: Preprocessing) -> list[dict[str, Any]]:
    axes = "".join(_AXES[axis] for axis in settings.transpose)
    # A 2-D network's slices are not resampled across.
    spacing = [*[-1.0] * (3 - len(settings.spacing)), *settings.spacing]
    return [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": axes},
        _normalisation(settings),
        {"_target_": "Spacingd", "keys": "image", "pixdim": spacing, "mode": 3, "padding_mode": "nearest"},
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    ]


def _normalisation(settings: Preprocessing) -> dict[str, Any]:
    by = settings.normalisation
    if by.scheme == "ct" and by.intensity is not None:
        low, high, mean, std = by.intensity.low, by.intensity.high, by.intensity.mean, max(by.intensity.std, 1e-8)
        window = {"a_min": low, "a_max": high, "b_min": (low - mean) / std, "b_max": (high - mean) / std}
        return {"_target_": "ScaleIntensityRanged", "keys": "image", **window, "clip": True}
    if by.scheme == "zscore" and not by.inside_mask:
        return {"_target_": "NormalizeIntensityd", "keys": "image"}
    if by.scheme == "none":
        return {"_target_": "Identityd", "keys": "image"}
    raise not_exportable(f"MONAI has no transform for the normalisation '{by.scheme}'", "export to ONNX instead")


def _inferer(settings: Settings) -> dict[str, Any]:
    window = {
        "roi_size": list(settings.patch_size),
        "sw_batch_size": 1,
        "overlap": round(1 - settings.step, 6),
        "mode": "gaussian",
    }
    if len(settings.patch_size) == 2:
        return {"_target_": "SliceInferer", "spatial_dim": 0, **window}
    return {"_target_": "SlidingWindowInferer", **window}
