"""Encoders through transformers' own classes: built from a configuration, or loaded from a folder or hub id."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pentad.core.errors import ModelError, UsageError

log = logging.getLogger(__name__)

# What transformers writes of itself and of a head, and what would differ between two machines.
_DROPPED = ("id2label", "label2id", "transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
_LAYER = re.compile(r"\.(?:layer|layers|h|block)\.(\d+)\.")


@dataclass(frozen=True)
class EncoderConfig:
    """What decides the tensors of a model on an encoder."""

    labels: tuple[str, ...]
    """Tags or classes, in the order of the outputs."""
    encoder: dict[str, Any]
    """The encoder's configuration as transformers has it, with its model_type."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or "model_type" not in self.encoder:
            raise ModelError(
                "PTD-782", "a model needs two labels and an encoder's model_type", "prepare the data again"
            )


def hugging_config(config: EncoderConfig, **more: Any) -> Any:
    """Return transformers' configuration object.

    Raises:
        ModelError: transformers knows no such encoder.
    """
    from transformers import AutoConfig

    values = {name: value for name, value in config.encoder.items() if name != "model_type"}
    try:
        return AutoConfig.for_model(config.encoder["model_type"], **values, num_labels=len(config.labels), **more)
    except (KeyError, ValueError, TypeError) as error:
        problem = f"no encoder '{config.encoder['model_type']}' ({' '.join(str(error).split())[:200]})"
        raise ModelError("PTD-782", problem, "install the transformers version that it needs") from None


def built(auto: Any, config: EncoderConfig) -> nn.Module:
    """Return the untrained network of a transformers auto class; seed torch first to repeat its weights."""
    network: nn.Module = auto.from_config(hugging_config(config))
    return network


def to_values(config: Any) -> dict[str, Any]:
    """Return a transformers configuration as plain values for `EncoderConfig.encoder`."""
    values = {name: value for name, value in config.to_diff_dict().items() if name not in _DROPPED}
    return {"model_type": config.model_type, **values}


def positions(values: dict[str, Any]) -> int:
    """Return how many pieces the encoder can take at once, the two special ones included; a large number if any."""
    most = int(values.get("max_position_embeddings") or 512)
    offset = 2 if values["model_type"] in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    return most - offset


@dataclass(frozen=True)
class Pretrained:
    """An encoder from a folder or the hub: its configuration, its tokenizer's JSON and its weights."""

    values: dict[str, Any]
    tokenizer: str
    source: str

    def load(self, auto: Any, **more: Any) -> nn.Module:
        """Return the network of a transformers auto class with the source's weights; what it lacks stays random.

        Raises:
            ModelError: The weights are missing or damaged.
        """
        try:
            network: nn.Module = auto.from_pretrained(self.source, local_files_only=_local(self.source), **more)
        except Exception as error:  # transformers passes on what its readers raise
            log.debug("cannot load %s", self.source, exc_info=True)
            problem = f"its weights cannot be loaded ({type(error).__name__})"
            raise ModelError("PTD-783", problem, "put model.safetensors of the encoder there", self.source) from None
        return network.to(torch.float32)


def _local(source: str) -> bool:
    return Path(source).exists()


def find_pretrained(source: str, *, offline: bool = False) -> Pretrained:
    """Return the encoder of a folder or hub id, its weights not yet loaded.

    Raises:
        ModelError: It is not there, or its tokenizer is missing; the sentence says what to put where.
    """
    from transformers import AutoConfig

    folder = Path(source)
    if not folder.is_dir() and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source):
        remedy = "give a folder with config.json, model.safetensors and tokenizer.json, or OWNER/NAME on the hub"
        raise ModelError("PTD-784", "no such encoder", remedy, source)
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=offline or folder.is_dir())
    except Exception as error:
        log.debug("cannot read %s", source, exc_info=True)
        problem = f"the encoder's config.json cannot be read or fetched ({type(error).__name__})"
        remedy = "put config.json, model.safetensors and tokenizer.json into a folder and give its path"
        raise ModelError("PTD-784", problem, remedy, source) from None
    return Pretrained(to_values(config), _tokenizer_json(source, offline=offline), source)


def _tokenizer_json(source: str, *, offline: bool) -> str:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    file = Path(source) / "tokenizer.json"
    try:
        if file.is_file():
            return str(Tokenizer.from_file(str(file)).to_str())
        if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in ("vocab.txt", "vocab.json")):
            raise FileNotFoundError(file)
        fast = AutoTokenizer.from_pretrained(source, local_files_only=offline or Path(source).is_dir(), use_fast=True)
        return str(fast.backend_tokenizer.to_str())
    except Exception as error:
        log.debug("no tokenizer in %s", source, exc_info=True)
        problem = f"the encoder's tokenizer.json is missing or damaged ({type(error).__name__})"
        raise ModelError("PTD-785", problem, "put tokenizer.json beside the encoder's weights", source) from None


def scale_learning_rates(model: nn.Module, decay: float, *, freeze_embeddings: bool = False) -> None:
    """Mark every parameter with the share of the learning rate that its depth gets, and what is never decayed.

    A head learns at the full rate, the top layer at ``decay`` times it, each layer below at ``decay`` times the one
    above, the embeddings at the lowest (Howard and Ruder, 2018; Sun et al., 2019). Biases and norms are not decayed.

    Raises:
        UsageError: ``decay`` is not above 0 up to 1.
    """
    if not 0 < decay <= 1:
        raise UsageError("PTD-786", f"layer_decay is {decay}", "give a number above 0 up to 1")
    named = list(model.named_parameters())
    depth = 1 + max((int(match[1]) for name, _ in named if (match := _LAYER.search(name))), default=-1)
    for name, parameter in named:
        match = _LAYER.search(name)
        below = depth - int(match[1]) if match else depth + 1 if "embeddings" in name else 0
        parameter._learning_rate_scale = decay**below  # type: ignore[attr-defined]
        parameter._no_weight_decay = parameter.ndim < 2  # type: ignore[attr-defined]
        if freeze_embeddings and name.endswith("word_embeddings.weight"):
            parameter.requires_grad_(False)
