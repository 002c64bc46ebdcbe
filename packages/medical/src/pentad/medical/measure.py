"""What a model costs at a plan: one training step on a batch of noise, in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from pentad.core.config import load_params
from pentad.core.cost import measure
from pentad.core.files import digest_file, write_json
from pentad.core.optimization import TrainConfig, build_optimizer
from pentad.core.run import pick_device, provenance, seed_everything
from pentad.medical.losses import segmentation_loss
from pentad.medical.models import build
from pentad.medical.plan import read_plan


def measure_model(model: str, plan: Path, out: Path, params: Path, overrides: Sequence[str] = ()) -> str:
    """Write parameters, operations, seconds and memory of a model at a plan; return one line.

    Args:
        model: Name in `pentad.medical.models.MODELS`.
        plan: The plan's file, which gives patch and batch.
        out: The JSON file.
        params: With the section ``train``: device, optimizer and number of steps.
        overrides: Changes to that section.

    Raises:
        UsageError: A file or setting cannot be used.
        ModelError: There is no such model, or the plan does not fit it.
    """
    made = read_plan(plan)
    config = replace(load_params(params, "train", TrainConfig, overrides), batch_size=made.batch_size)
    device = pick_device(config.device)
    seed_everything(config.seed)
    network = build(model, made).to(device).train()
    optimizer = build_optimizer(network, config)
    images = torch.randn(made.batch_size, len(made.channels), *made.patch_size, device=device)
    labels = torch.randint(len(made.labels), (made.batch_size, 1, *made.patch_size), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        segmentation_loss(network(images), labels, batch_dice=made.batch_dice).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    cost = measure(network, images, step)
    entry = {
        "model": model,
        "batch_size": made.batch_size,
        "patch_size": list(made.patch_size),
        "steps": config.steps,
        "device": str(device),
        "threads": torch.get_num_threads(),
        **{name: round(value, 4) for name, value in asdict(cost).items()},
        "provenance": provenance("medical", plan=digest_file(plan)),
    }
    write_json(out, entry)
    return (
        f"{model}: {cost.parameters / 1e6:.2f} M parameters, {cost.gflop / made.batch_size:.2f} GFLOP a patch, "
        f"{cost.seconds:.2f} s a step, {cost.peak_mb:.0f} MB"
    )
