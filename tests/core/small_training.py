"""A training of seconds with every kind of state; as a script it is there to be killed: FOLDER."""

import sys
import time
from pathlib import Path

import torch
from torch import nn

from pentad.core.trainer import TrainConfig, fit

FULL = TrainConfig(
    steps=40,
    batch_size=4,
    optimizer="adamw",
    learning_rate=0.02,
    schedule="cosine",
    warmup_steps=5,
    accumulate=2,
    ema=0.9,
    validate_every=6,
    checkpoint_every=5,
    log_every=3,
    seed=3,
    device="cpu",
)


class Points(torch.utils.data.Dataset):
    def __init__(self, wait=0.0):
        self.wait = wait

    def __getitem__(self, ordinal):
        time.sleep(self.wait)
        x = torch.randn(6, generator=torch.Generator().manual_seed(ordinal))
        return {"x": x, "y": x[:1].sin() + x[1:2]}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))


def squared_error(model, batch):
    return nn.functional.mse_loss(model(batch["x"]).float(), batch["y"])


@torch.no_grad()
def score(model):
    batch = torch.utils.data.default_collate([Points()[10**6 + index] for index in range(32)])
    torch.rand(1)  # a validation that draws must not change the training
    return {"error": float(squared_error(model, batch))}


def train(folder, config=FULL, *, model=None, objective=squared_error, wait=0.0, resume=False):
    model = model or network()
    return model, fit(model, Points(wait), objective, config, folder, validate=score, monitor="-error", resume=resume)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), wait=0.01)
