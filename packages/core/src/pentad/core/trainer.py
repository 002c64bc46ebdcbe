"""The only training loop: steps over ordinal-numbered samples, on a CPU, one GPU or many, resumable to the bit.

Step k takes the samples k·n … k·n + n - 1, where n is batch size times accumulation times processes, so a resumed run
needs no sampler's state: the step's number says it all.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pentad.core.checkpoint import load_strict, own_tensors
from pentad.core.config import to_mapping
from pentad.core.errors import PentadError, UsageError, nearest
from pentad.core.files import write_text
from pentad.core.interrupt import Interrupt
from pentad.core.optimization import TrainConfig, averaged, build_optimizer, learning_rate, update_average
from pentad.core.processes import processes
from pentad.core.run import pick_device, seed_everything
from pentad.core.snapshot import (
    find_snapshot,
    load_optimizer,
    load_random_state,
    optimizer_state,
    random_state,
    read_snapshot,
    write_snapshot,
)

log = logging.getLogger(__name__)

HISTORY, CHECKPOINT = "history.jsonl", "checkpoint"
# Settings that decide where and how often, not what is computed; a run may be resumed with others.
_FREE = ("checkpoint_every", "device", "workers")

Objective = Callable[[nn.Module, Any], Tensor]
Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class FitResult:
    """What a finished training did."""

    steps: int
    """Optimizer steps taken; fewer than asked where training stopped early."""
    seconds: float
    """Over all parts of a run that was resumed."""
    best: dict[str, float]
    """Metrics of the best validation and its step; empty without validation."""
    history: list[dict[str, float | None]]
    """The lines of history.jsonl."""


def fit(  # noqa: PLR0913 - what a training consists of, each by its name
    model: nn.Module,
    samples: Dataset[Any],
    objective: Objective,
    config: TrainConfig,
    folder: Path,
    *,
    validate: Validate | None = None,
    monitor: str = "",
    resume: bool = False,
) -> FitResult:
    """Train the model and leave it with the best weights: validated ones, else averaged ones, else the last.

    Args:
        model: Trained in place; moved to the device.
        samples: Gives the sample of any ordinal number 0, 1, 2, …, each a function of its own seed and the number
            alone; a method `collate`, where it has one, joins samples to a batch.
        objective: The model and a batch on the device → scalar loss, a mean over the batch.
        config: How to train.
        folder: Takes history.jsonl and checkpoint/.
        validate: The model in evaluation mode → metrics by name; must not depend on anything that training changes.
        monitor: Metric to keep the best weights by, the higher the better, or the lower with a '-' before its name;
            empty takes the first.
        resume: Go on from the folder's checkpoint; without one, begin.

    Raises:
        UsageError: The folder holds another run, or validation gives no metric of the name to monitor.
        ModelError: The checkpoint is damaged or of another model.
        PentadError: The loss or its gradient is no longer a finite number.
        KeyboardInterrupt: SIGINT or SIGTERM came; the checkpoint written then resumes the run.
    """
    run = _Run(model, objective, config, folder)
    run.begin(resume)
    with Interrupt() as interrupt:
        batches = run.batches(samples)
        while not run.finished:
            run.advance(batches, interrupt)
            run.record(validate, monitor)
            due = config.checkpoint_every > 0 and (run.finished or run.step % config.checkpoint_every == 0)
            if due or run.interrupted:
                run.checkpoint()
            if run.interrupted and not run.finished:
                log.warning("stopped at step %d of %d; its checkpoint resumes it", run.step, config.steps)
                raise KeyboardInterrupt
    return run.end()


def _ignore_interrupt(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal, and the training process needs its samples to end its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Ordinals:
    """The ordinal numbers of each batch of one process, from the first batch to before the last."""

    def __init__(self, first: int, end: int, batch_size: int, accelerator: Accelerator) -> None:
        self.batches, self.size = range(first, end), batch_size
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            start = (batch * self.processes + self.rank) * self.size
            yield list(range(start, start + self.size))

    def __len__(self) -> int:
        return len(self.batches)


@dataclass
class _Run:
    """One training: what changes from step to step, and the parts it changes."""

    model: nn.Module
    objective: Objective
    config: TrainConfig
    folder: Path
    step: int = 0
    waited: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float | None]] = field(default_factory=list)
    average: dict[str, Tensor] = field(default_factory=dict)
    interrupted: bool = False

    def __post_init__(self) -> None:
        several = processes() > 1
        wanted = pick_device(self.config.device)
        # Precision is set around the objective: accelerate's own would patch the model and outlive the run.
        self.accelerator = Accelerator(cpu=several and wanted.type == "cpu", mixed_precision="no")
        self.device = self.accelerator.device if several else wanted
        self.model.to(self.device)
        self.wrapped = self.accelerator.prepare_model(self.model, device_placement=False)
        self.optimizer = build_optimizer(self.model, self.config)
        self.began = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all steps are done or validation has not gained for too long."""
        return self.step >= self.config.steps or 0 < self.config.patience <= self.waited

    @property
    def _identity(self) -> dict[str, Any]:
        settings = {name: value for name, value in to_mapping(self.config).items() if name not in _FREE}
        return {**settings, "processes": self.accelerator.num_processes}

    def begin(self, resume: bool) -> None:
        """Seed, and take up the folder's checkpoint or an empty history."""
        seed_everything(self.config.seed + self.accelerator.process_index)
        found = find_snapshot(self.folder / CHECKPOINT)
        if found and not resume:
            raise UsageError("PTD-232", "the folder holds a run", "resume it, or choose another folder", self.folder)
        if self.config.ema is not None:
            self.average = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        if found:
            self._restore(found)
        elif resume:
            log.info("no checkpoint in %s yet: training begins", self.folder)
        if self.accelerator.is_main_process:
            self._cut_history()
        self.model.train()

    def batches(self, samples: Dataset[Any]) -> Iterator[Any]:
        """Return the batches of this process from the present step to the last."""
        config = self.config
        first = self.step * config.accumulate
        loader: DataLoader[Any] = DataLoader(
            samples,
            batch_sampler=_Ordinals(first, config.steps * config.accumulate, config.batch_size, self.accelerator),
            collate_fn=getattr(samples, "collate", None),
            num_workers=config.workers,
            worker_init_fn=_ignore_interrupt,
            pin_memory=self.device.type == "cuda",
            # Its own generator: the loader would else draw from the one that dropout draws from.
            generator=torch.Generator().manual_seed(config.seed),
        )
        return iter(loader)

    def advance(self, batches: Iterator[Any], interrupt: Interrupt) -> None:
        """Take one optimizer step."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step) * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for part in range(config.accumulate):
            last = part == config.accumulate - 1
            batch = send_to_device(next(batches), self.device)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    part_loss = self.objective(self.wrapped, batch) / config.accumulate
                self.accelerator.backward(part_loss)
            loss += part_loss.detach().float()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm or math.inf)
        self._note(loss, norm, interrupt)
        self.optimizer.step()
        self.step += 1
        if config.ema is not None:
            update_average(self.average, self.model, config.ema)

    def _note(self, loss: Tensor, norm: Tensor, interrupt: Interrupt) -> None:
        # One exchange per step: processes that disagreed on stopping would wait for each other for ever.
        asked = torch.tensor(float(interrupt.requested), device=self.device)
        noted = torch.stack([loss, norm.detach().to(loss), asked])
        value, size, requested = self.accelerator.reduce(noted, "mean").tolist()
        if not (math.isfinite(value) and math.isfinite(size)):
            what = f"the loss is {value}" if not math.isfinite(value) else f"the gradient's norm is {size}"
            remedy = "lower learning_rate or clip_norm, add warmup_steps, or take precision fp32"
            raise PentadError("PTD-233", f"{what} in step {self.step + 1}", remedy, self.folder)
        self.loss_sum += value
        self.loss_count += 1
        self.interrupted = requested > 0

    def record(self, validate: Validate | None, monitor: str) -> None:
        """Validate where it is due, and write a line where one is due."""
        config = self.config
        last = self.step == config.steps
        validated = validate is not None and (
            last or (config.validate_every > 0 and self.step % config.validate_every == 0)
        )
        if not (last or validated or self.step % (config.log_every or math.ceil(config.steps / 100)) == 0):
            return
        line: dict[str, float | None] = {
            "step": self.step,
            "loss": self.loss_sum / self.loss_count,
            "lr": learning_rate(config, self.step - 1),
            "seconds": round(time.monotonic() - self.began, 3),
        }
        self.loss_sum, self.loss_count = 0.0, 0
        if validate is not None and validated:
            metrics = self._validate(validate, monitor)
            line |= {f"val_{name}": value if math.isfinite(value) else None for name, value in metrics.items()}
        self.history.append(line)
        if self.accelerator.is_main_process:
            with (self.folder / HISTORY).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            log.info("%s", "  ".join(f"{name} {_short(value)}" for name, value in line.items()))

    def _validate(self, validate: Validate, monitor: str) -> dict[str, float]:
        drawn = random_state()
        self.model.eval()
        with averaged(self.model, self.average), torch.no_grad():
            metrics = {name: float(value) for name, value in validate(self.model).items()}
            # Devices may round differently; all must come to one decision.
            broadcast_object_list(shared := [metrics])
            metrics = shared[0]
            self._keep_best(metrics, monitor)
        self.model.train()
        load_random_state(drawn)
        return metrics

    def _keep_best(self, metrics: dict[str, float], monitor: str) -> None:
        name = monitor.removeprefix("-") or next(iter(metrics), "")
        if name not in metrics:
            problem = f"validation gives no metric '{name}'{nearest(name, metrics)}"
            raise UsageError("PTD-234", problem, f"monitor one of: {', '.join(metrics) or 'none'}")
        sign = -1 if monitor.startswith("-") else 1
        gained = math.isfinite(metrics[name]) and (not self.best or sign * metrics[name] > sign * self.best[name])
        self.waited = 0 if gained else self.waited + 1
        if gained:
            self.best = {"step": self.step, **{key: value for key, value in metrics.items() if math.isfinite(value)}}
            self.best_weights = own_tensors(self.model)

    def checkpoint(self) -> None:
        """Write everything that a resumed run needs."""
        drawn = gather_object([random_state()])
        if self.accelerator.is_main_process:
            moments, values = optimizer_state(self.optimizer)
            average = {name: tensor.to("cpu", copy=True) for name, tensor in self.average.items()}
            tensors = {
                "model": own_tensors(self.model),
                "optimizer": moments,
                "ema": average,
                "best": self.best_weights,
            }
            state = {
                "identity": self._identity,
                "step": self.step,
                "seconds": time.monotonic() - self.began,
                "waited": self.waited,
                "loss_sum": self.loss_sum,
                "loss_count": self.loss_count,
                "best": self.best,
                "optimizer": values,
                "random": drawn,
            }
            write_snapshot(self.folder / CHECKPOINT, {name: some for name, some in tensors.items() if some}, state)
        self.accelerator.wait_for_everyone()

    def _restore(self, found: Path) -> None:
        tensors, state = read_snapshot(found)
        for name, value in self._identity.items():
            if state["identity"].get(name) != value:
                problem = f"begun with {name} {state['identity'].get(name)!r}, not {value!r}"
                raise UsageError("PTD-231", problem, "resume with that setting, or choose another folder", self.folder)
        load_strict(self.model, tensors["model"], where=found)
        load_optimizer(self.optimizer, tensors.get("optimizer", {}), state["optimizer"])
        self.average = {name: tensor.to(self.device) for name, tensor in tensors.get("ema", {}).items()}
        self.best, self.best_weights = state["best"], tensors.get("best", {})
        self.step, self.waited = state["step"], state["waited"]
        self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]
        self.began = time.monotonic() - state["seconds"]
        load_random_state(state["random"][self.accelerator.process_index])
        log.info("resumed at step %d of %d", self.step, self.config.steps)

    def _cut_history(self) -> None:
        # A killed run may have written lines past its checkpoint, the last one in part.
        path = self.folder / HISTORY
        text = path.read_text(encoding="utf-8") if self.step and path.is_file() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        self.history = [line for line in lines if line["step"] <= self.step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in self.history))

    def end(self) -> FitResult:
        """Leave the model with the weights to keep, and say what was done."""
        if kept := self.best_weights or self.average:
            load_strict(self.model, kept)
        self.model.eval()
        return FitResult(self.step, time.monotonic() - self.began, self.best, self.history)


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
