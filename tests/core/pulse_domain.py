"""A made-up sixth domain: is there a pulse in a noisy signal? All but its own reader, model and predictor is core's."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pentad.core.batch import BatchOptions, CaseResult, run_batch
from pentad.core.bundle import PublishedModel, load_bundle, save_bundle
from pentad.core.cases import Case, Rejection, assign_splits, read_cases, write_cases, write_rejections
from pentad.core.errors import CaseError
from pentad.core.evaluation import evaluate, summarise, write_results
from pentad.core.optimization import TrainConfig
from pentad.core.report import Table, write_page
from pentad.core.run import provenance, seed_everything
from pentad.core.trainer import fit


def read_signal(path):
    signal = np.load(path)
    if signal.shape != (64,) or not np.isfinite(signal).all():
        raise CaseError("PTD-390", "not 64 finite samples", "export the signal again", Path(path).name)
    return torch.from_numpy(signal.astype(np.float32))


def prepare(raw, out):
    cases, rejected = [], []
    for path in sorted(raw.glob("*.npy")):
        try:
            read_signal(path)
            cases.append(Case(id=path.stem, files={"signal": str(path)}, target=path.stem.split("_")[0]))
        except CaseError as error:
            rejected.append(Rejection(where=path.name, code=error.code, reason=error.problem))
    write_cases(out / "cases.jsonl", assign_splits(cases, {"train": 0.5, "test": 0.5}, seed=0))
    write_rejections(out / "rejected.jsonl", rejected)


@dataclass(frozen=True)
class PulseConfig:
    width: int = 8


class PulseNet(PublishedModel):
    def __init__(self, config: PulseConfig):
        super().__init__(config)
        self.filters = nn.Conv1d(1, config.width, 9)
        self.head = nn.Linear(config.width, 1)

    def forward(self, x):
        return self.head(self.filters(x[:, None]).relu().amax(-1))[:, 0]


class Signals(torch.utils.data.Dataset):
    def __init__(self, cases):
        self.items = [(read_signal(case.files["signal"]), float(case.target == "pulse")) for case in cases]

    def __getitem__(self, ordinal):
        signal, target = self.items[ordinal % len(self.items)]
        return {"signal": signal, "target": torch.tensor(target)}


def predict(model, case):
    with torch.inference_mode():
        return float(model(read_signal(case.files["signal"])[None]).sigmoid())


def train(table, bundle, run, steps, resume=False):
    seed_everything(0)
    model, config = (
        PulseNet(PulseConfig()),
        TrainConfig(steps=steps, batch_size=8, optimizer="adamw", checkpoint_every=5),
    )
    loss = lambda model, batch: nn.functional.binary_cross_entropy_with_logits(model(batch["signal"]), batch["target"])  # noqa: E731
    fit(model, Signals(read_cases(table, "train")), loss, config, run, resume=resume)
    save_bundle(
        bundle, model, domain="pulse", name="pulse_net", settings={}, card="Finds pulses.", provenance=provenance()
    )


def score(table, bundle, out):
    model = load_bundle(bundle, "pulse", {"pulse_net": PulseNet}).model.eval()
    rows = evaluate(
        read_cases(table, "test"), lambda case: {"accuracy": (predict(model, case) > 0.5) == (case.target == "pulse")}
    )
    summary = summarise(rows, seed=0)
    write_results(out, rows, summary, provenance())
    write_page(
        out / "page.html",
        "Pulses",
        [Table(["metric", "value"], [["accuracy", summary["accuracy"]["value"]]])],
        provenance(),
    )


def worker(bundle):
    model = load_bundle(bundle, "pulse", {"pulse_net": PulseNet}).model.eval()
    return lambda case, folder: CaseResult({"probability": round(predict(model, case), 4)}, [])


def batch(cases, bundle, options: BatchOptions):
    return run_batch(cases, partial(worker, bundle), options, {"model": str(bundle)})
