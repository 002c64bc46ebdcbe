"""How weights are moved: the settings of a training, its learning rates, its optimizer, its averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pentad.core.checkpoint import load_strict
from pentad.core.errors import UsageError

POLY_POWER = 0.9  # nnU-Net's exponent


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are nnU-Net's."""

    steps: int
    """Optimizer steps."""
    batch_size: int = 2
    """Samples per forward pass and process."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    """At the top of the schedule."""
    momentum: float = 0.99
    """Of SGD."""
    nesterov: bool = True
    """Of SGD with momentum."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    weight_decay: float = 3e-5
    """For every parameter that is not marked with the attribute `_no_weight_decay`."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    warmup_steps: int = 0
    """Steps over which the learning rate first rises in equal parts."""
    clip_norm: float = 12.0
    """Largest norm of all gradients together; 0 does not clip."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes under autocast; weights stay float32."""
    accumulate: int = 1
    """Forward passes whose gradients make one step."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is then validated and kept in their place."""
    validate_every: int = 0
    """Steps between validations; 0 validates once, at the end."""
    patience: int = 0
    """Validations without gain before training stops; 0 never stops it."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 writes one on interruption only."""
    log_every: int = 0
    """Steps between lines of the log and history; 0 makes a hundred lines."""
    workers: int = 0
    """Processes that prepare samples; 0 prepares them in the training process."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under `accelerate launch` each process takes its own."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "accumulate": 1, "learning_rate": 0, "weight_decay": 0, "clip_norm": 0}
        counts = ("warmup_steps", "validate_every", "patience", "checkpoint_every", "log_every", "workers")
        for name, low in {**least, **dict.fromkeys(counts, 0)}.items():
            if not getattr(self, name) >= low:
                raise UsageError("PTD-230", f"{name} is {getattr(self, name)}, less than {low}", "correct the setting")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UsageError("PTD-230", f"ema is {self.ema}, not from 0 to below 1", "correct the setting")


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises in equal parts over the warm-up; then, with t from 0 to 1 over the remaining steps, it is constant,
    (1 - t)^0.9 of the top (poly) or (1 + cos πt) / 2 of it (cosine).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    t = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    poly: float = (1 - t) ** POLY_POWER
    factor = {"constant": 1.0, "poly": poly, "cosine": (1 + math.cos(math.pi * t)) / 2}
    return config.learning_rate * factor[config.schedule]


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer over all trainable parameters.

    Those marked with the attribute `_no_weight_decay` are not decayed; the attribute `_learning_rate_scale` multiplies
    the learning rate of those that carry it, as layer-wise decay asks for.
    """
    gathered: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
        kept = bool(getattr(parameter, "_no_weight_decay", False))
        scale = float(getattr(parameter, "_learning_rate_scale", 1.0))
        gathered.setdefault((kept, scale), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": gathered[kept, scale],
            "weight_decay": 0.0 if kept else config.weight_decay,
            "lr": config.learning_rate * scale,
            "scale": scale,
        }
        for kept, scale in sorted(gathered)
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov)


def update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move each averaged tensor to decay · average + (1 - decay) · weight, in place; whole numbers are copied."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                average[name].lerp_(tensor, 1 - decay)
            else:
                average[name].copy_(tensor)


@contextmanager
def averaged(model: nn.Module, average: Mapping[str, Tensor]) -> Iterator[None]:
    """Lend the model the averaged tensors for the block, where there are any."""
    if not average:
        yield
        return
    own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    load_strict(model, average)
    try:
        yield
    finally:
        load_strict(model, own)
