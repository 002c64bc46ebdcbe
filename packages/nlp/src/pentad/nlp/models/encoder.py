"""Encoders through transformers' own classes: built from a configuration, or loaded from a folder or hub id."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pentad.core.errors import ModelError, UsageError
from pentad.nlp.licences import UNKNOWN, card_licence, is_hub_id
from pentad.nlp.tokenizer import trimmed

log = logging.getLogger(__name__)

# What transformers writes of itself and of a head, and what would differ between two machines.
_DROPPED = ("id2label", "label2id", "transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
_LAYER = re.compile(r"\.(?:layer|layers|h|block|albert_layer_groups)\.(\d+)\.")  # ALBERT shares them by group


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
    rows: tuple[int, ...] = ()
    """Rows of its word embeddings to take; none takes all."""
    licence: str = UNKNOWN
    """As its model card names it."""

    def first_layers(self, count: int) -> Pretrained:
        """Return it without the layers above the first ``count``.

        Raises:
            UsageError: It has fewer, or its kind has no plain pile of layers.
        """
        from transformers import AutoConfig

        values = {name: value for name, value in self.values.items() if name != "model_type"}
        most = getattr(AutoConfig.for_model(self.values["model_type"], **values), "num_hidden_layers", 0)
        if not 0 < count <= most:
            problem = f"keep_layers is {count}, and the encoder has {most} layers"
            raise UsageError("PTD-808", problem, f"give a number from 1 to {most}", self.source)
        return replace(self, values={**self.values, "num_hidden_layers": count})

    def trimmed(self, texts: Sequence[str]) -> Pretrained:
        """Return it with only the pieces that the texts use, and single signs of their scripts.

        Raises:
            ModelError: Its tokenizer is of a kind whose pieces cannot be left out.
        """
        tokenizer, rows = trimmed(self.tokenizer, texts)
        values = {**self.values, "vocab_size": len(rows)}
        if isinstance(padding := self.values.get("pad_token_id", 0), int) and padding in rows:
            values["pad_token_id"] = rows.index(padding)
        return replace(self, values=values, tokenizer=tokenizer, rows=rows)

    def load(self, auto: Any, **more: Any) -> nn.Module:
        """Return the network of a transformers auto class with the source's weights; what it lacks stays random.

        Raises:
            ModelError: The weights are missing or damaged.
        """
        layers = {name: self.values[name] for name in ("num_hidden_layers",) if name in self.values}
        try:
            with quiet():
                network: Any = auto.from_pretrained(
                    self.source, local_files_only=_local(self.source), trust_remote_code=False, **layers, **more
                )
        except Exception as error:  # transformers passes on what its readers raise
            log.debug("cannot load %s", self.source, exc_info=True)
            problem = f"its weights cannot be loaded ({type(error).__name__})"
            raise ModelError("PTD-783", problem, "put model.safetensors of the encoder there", self.source) from None
        if self.rows:
            kept = network.get_input_embeddings().weight.detach()[list(self.rows)].clone()
            padding = self.values.get("pad_token_id")
            embeddings = nn.Embedding(len(kept), kept.shape[1], padding_idx=padding, _weight=kept)
            network.set_input_embeddings(embeddings)
            network.config.vocab_size, network.config.pad_token_id = len(self.rows), padding
        found: nn.Module = network.to(torch.float32)
        return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and tables off the screen; what matters is raised."""
    from transformers.utils import logging as transformers_logging

    library: Any = transformers_logging
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def _local(source: str) -> bool:
    return Path(source).exists()


def find_pretrained(source: str, *, offline: bool = False) -> Pretrained:
    """Return the encoder of a folder or hub id, its weights not yet loaded.

    Raises:
        ModelError: It is not there, or its tokenizer is missing; the sentence says what to put where.
    """
    from transformers import AutoConfig

    folder = Path(source)
    if not folder.is_dir() and not is_hub_id(source):
        remedy = "give a folder with config.json, model.safetensors and tokenizer.json, or OWNER/NAME on the hub"
        raise ModelError("PTD-784", "no such encoder", remedy, source)
    try:
        # Unless told not to, transformers asks at the terminal whether to run the code that a folder brings.
        config = AutoConfig.from_pretrained(
            source, local_files_only=offline or folder.is_dir(), trust_remote_code=False
        )
    except Exception as error:
        log.debug("cannot read %s", source, exc_info=True)
        problem = f"the encoder's config.json cannot be read or fetched, or asks for code ({type(error).__name__})"
        remedy = "put config.json, model.safetensors and tokenizer.json into a folder and give its path"
        raise ModelError("PTD-784", problem, remedy, source) from None
    tokenizer = _tokenizer_json(source, offline=offline)
    return Pretrained(to_values(config), tokenizer, source, licence=card_licence(source, offline=offline))


def _tokenizer_json(source: str, *, offline: bool) -> str:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    file = Path(source) / "tokenizer.json"
    try:
        if file.is_file():
            return str(Tokenizer.from_file(str(file)).to_str())
        if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in ("vocab.txt", "vocab.json")):
            raise FileNotFoundError(file)
        local = offline or Path(source).is_dir()
        fast = AutoTokenizer.from_pretrained(source, local_files_only=local, use_fast=True, trust_remote_code=False)
        return str(fast.backend_tokenizer.to_str())
    except Exception as error:
        log.debug("no tokenizer in %s", source, exc_info=True)
        problem = f"the encoder's tokenizer.json is missing or damaged ({type(error).__name__})"
        raise ModelError("PTD-785", problem, "put tokenizer.json beside the encoder's weights", source) from None


def scale_learning_rates(model: nn.Module, decay: float, *, head: float = 1.0, freeze_embeddings: bool = False) -> None:
    """Mark every parameter with the share of the learning rate that its depth gets, and what is never decayed.

    The top layer learns at ``decay`` times the rate, each layer below at ``decay`` times the one above, the embeddings
    at the lowest (Howard and Ruder, 2018; Sun et al., 2019); what stands on the encoder, at ``head`` times the rate.
    Biases and norms are not decayed.

    Raises:
        UsageError: ``decay`` is not above 0 up to 1, or ``head`` not above 0.
    """
    if not 0 < decay <= 1 or head <= 0:
        problem = f"layer_decay is {decay} and head_rate {head}"
        raise UsageError("PTD-786", problem, "give layer_decay above 0 up to 1, and head_rate above 0")
    named = list(model.named_parameters())
    depth = 1 + max((int(match[1]) for name, _ in named if (match := _LAYER.search(name))), default=-1)
    for name, parameter in named:
        match = _LAYER.search(name)
        below = depth - int(match[1]) if match else depth + 1 if "embedding" in name else 0
        parameter._learning_rate_scale = decay**below if below else head  # type: ignore[attr-defined]
        parameter._no_weight_decay = parameter.ndim < 2  # type: ignore[attr-defined]
        if freeze_embeddings and name.endswith("word_embeddings.weight"):
            parameter.requires_grad_(False)
