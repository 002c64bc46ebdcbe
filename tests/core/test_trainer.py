"""The training loop: what each setting does, and that a stopped run goes on as if it had never stopped."""

import json
import logging
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from core import small_training
from core.small_training import FULL, Points, network, score, squared_error, train
from torch import nn

from pentad.core.errors import ModelError, PentadError, UsageError
from pentad.core.optimization import averaged, build_optimizer, learning_rate, update_average
from pentad.core.trainer import TrainConfig, fit

PLAIN = TrainConfig(steps=8, batch_size=4, learning_rate=0.05, momentum=0.9, device="cpu")


def linear():
    torch.manual_seed(1)
    return nn.Linear(6, 1)


def history(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def equal_bits(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model, result = train(folder)
    return model, result, folder


def test_a_killed_training_resumed_equals_an_uninterrupted_one_bit_for_bit(whole, tmp_path):
    model, result, folder = whole
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(small_training.__file__).parents[1])}
    child = subprocess.Popen([sys.executable, small_training.__file__, tmp_path], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.SystemRandom().uniform(0, 2))  # training seeds the other generator
    assert child.poll() is None, "the training ended before it could be killed"
    child.kill()
    child.wait()
    resumed, again = train(tmp_path, resume=True)
    assert equal_bits(model, resumed)
    assert history(tmp_path) == history(folder)
    assert (again.steps, again.best) == (result.steps, result.best)


def test_sigterm_leaves_a_checkpoint_between_the_regular_ones(whole, tmp_path):
    calls = []

    def interrupted(model, batch):
        calls.append(1)
        if len(calls) == 2 * 17:
            os.kill(os.getpid(), signal.SIGTERM)
        return squared_error(model, batch)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, objective=interrupted)
    assert json.loads((tmp_path / "checkpoint" / "state.json").read_text())["step"] == 17
    resumed, _ = train(tmp_path, resume=True)
    assert equal_bits(whole[0], resumed)
    assert history(tmp_path) == history(whole[2])


def test_a_finished_run_resumed_returns_what_it_returned(tmp_path):
    first, result = train(tmp_path)
    second, again = train(tmp_path, resume=True)
    assert equal_bits(first, second)
    assert again.history == result.history


def test_a_death_between_the_renames_of_a_checkpoint_leaves_the_old_one(whole, tmp_path):
    with pytest.raises(PentadError):
        train(tmp_path, objective=poisoned(2 * 22))
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    (tmp_path / "checkpoint.new").mkdir()
    resumed, _ = train(tmp_path, resume=True)
    assert equal_bits(whole[0], resumed)


def test_resume_without_a_checkpoint_begins(whole, tmp_path):
    (tmp_path / "history.jsonl").write_text('{"step": 3, "loss": 1.0}\n{"step": 6, "lo')
    begun, _ = train(tmp_path, resume=True)
    assert equal_bits(whole[0], begun)
    assert history(tmp_path) == history(whole[2])


def test_preparing_samples_in_other_processes_changes_no_bit(whole, tmp_path):
    model, _ = train(tmp_path, replace(FULL, workers=2))
    assert equal_bits(whole[0], model)


def test_validating_changes_no_step_of_the_training(tmp_path):
    config = replace(FULL, steps=12, log_every=1)
    often, once = (train(tmp_path / str(every), replace(config, validate_every=every))[1] for every in (2, 0))
    assert [line["loss"] for line in often.history] == [line["loss"] for line in once.history]


def test_nothing_in_a_checkpoint_is_pickled(whole):
    names = {path.name for path in (whole[2] / "checkpoint").iterdir()}
    tensors = {f"{name}.safetensors" for name in ("model", "optimizer", "ema", "best")}
    assert names == tensors | {"state.json"}


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(tmp_path):
    config = replace(PLAIN, checkpoint_every=4)
    train(tmp_path, config)
    with pytest.raises(UsageError, match=r"PTD-232 .*holds a run"):
        train(tmp_path, config)
    with pytest.raises(UsageError, match=r"PTD-231 .*begun with learning_rate 0.05, not 0.1"):
        train(tmp_path, replace(config, learning_rate=0.1), resume=True)


def test_a_full_disk_is_one_sentence_and_leaves_the_old_checkpoint(whole, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    calls = []

    def filling(model, batch):
        calls.append(1)
        if len(calls) == 2 * 12:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        return squared_error(model, batch)

    try:
        with pytest.raises(UsageError, match=r"PTD-236 .*cannot be written"):
            train(tmp_path, objective=filling)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resumed, _ = train(tmp_path, resume=True)
    assert equal_bits(whole[0], resumed)


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(tmp_path, replace(PLAIN, checkpoint_every=4))
    path = tmp_path / "checkpoint" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelError, match="PTD-235"):
        train(tmp_path, replace(PLAIN, checkpoint_every=4), resume=True)


def test_accumulating_gradients_equals_a_larger_batch(tmp_path):
    models = [linear(), linear()]
    for number, (model, batch, parts) in enumerate(zip(models, (8, 2), (1, 4), strict=True)):
        config = replace(PLAIN, batch_size=batch, accumulate=parts)
        fit(model, Points(), squared_error, config, tmp_path / str(number))
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=0, atol=1e-6)


def test_the_average_follows_its_formula():
    model, average = linear(), {"weight": torch.zeros(1, 6), "bias": torch.ones(1)}
    expected = 0.75 * 0.75 * 1.0 + (1 - 0.75**2) * model.bias.item()
    for _ in range(2):
        update_average(average, model, 0.75)
    assert average["bias"].item() == pytest.approx(expected, abs=1e-6)


def test_averaged_weights_are_kept_in_place_of_the_last(tmp_path):
    plain, averaged = linear(), linear()
    start = plain.weight.detach().clone()
    fit(plain, Points(), squared_error, replace(PLAIN, steps=1), tmp_path / "plain")
    fit(averaged, Points(), squared_error, replace(PLAIN, steps=1, ema=0.9), tmp_path / "averaged")
    torch.testing.assert_close(averaged.weight, 0.9 * start + 0.1 * plain.weight, rtol=0, atol=1e-6)


def test_training_stops_early_and_keeps_the_best_weights(tmp_path):
    errors = iter([3.0, 1.0, 2.0, math.nan, 0.0])
    seen = []

    def validate(model):
        seen.append(model.weight.detach().clone())
        return {"error": next(errors)}

    model = linear()
    config = replace(PLAIN, steps=50, validate_every=5, patience=2)
    result = fit(model, Points(), squared_error, config, tmp_path, validate=validate, monitor="-error")
    assert (result.steps, result.best) == (20, {"step": 10, "error": 1.0})
    assert torch.equal(model.weight, seen[1])
    assert result.history[-1]["val_error"] is None


def test_a_metric_to_monitor_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"PTD-234 .*'eror' .did you mean 'error'.*monitor one of: error"):
        fit(linear(), Points(), squared_error, PLAIN, tmp_path, validate=score, monitor="eror")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("poly", [0.5, 1.0, 1.0, 0.5**0.9]), ("cosine", [0.5, 1.0, 1.0, 0.5]), ("constant", [0.5, 1.0, 1.0, 1.0])],
)
def test_schedules_rise_in_the_warm_up_and_take_their_published_values(schedule, expected):
    config = TrainConfig(steps=10, learning_rate=1.0, warmup_steps=2, schedule=schedule)
    assert [learning_rate(config, step) for step in (0, 1, 2, 6)] == pytest.approx(expected, abs=1e-12)


def test_bf16_trains_float32_weights_to_nearly_the_same_values(tmp_path):
    models = {"fp32": linear(), "bf16": linear()}
    for precision, model in models.items():
        fit(model, Points(), squared_error, replace(PLAIN, precision=precision), tmp_path / precision)
    assert models["bf16"].weight.dtype is torch.float32
    assert not torch.equal(models["fp32"].weight, models["bf16"].weight)
    torch.testing.assert_close(models["fp32"].weight, models["bf16"].weight, rtol=0, atol=0.02)


def test_marked_parameters_are_not_decayed():
    model = linear()
    model.bias._no_weight_decay = True
    groups = build_optimizer(model, replace(PLAIN, weight_decay=0.1)).param_groups
    assert {group["weight_decay"]: group["params"] for group in groups} == {0.1: [model.weight], 0.0: [model.bias]}


def test_a_marked_parameter_learns_at_its_share_of_the_rate(tmp_path):
    models = [linear(), linear()]
    models[1].load_state_dict(models[0].state_dict())
    models[1].bias._learning_rate_scale = 0.5
    moved = []
    for place, model in enumerate(models):
        before = model.bias.detach().clone()
        config = replace(PLAIN, steps=1, learning_rate=0.1, momentum=0.0, clip_norm=0.0, weight_decay=0.0)
        fit(model, Points(), squared_error, config, tmp_path / str(place))
        moved.append(model.bias.detach() - before)
    assert torch.allclose(moved[1], moved[0] / 2)


def test_gradients_are_clipped_to_the_norm(tmp_path):
    model = linear()
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    config = replace(PLAIN, steps=1, learning_rate=1.0, momentum=0.0, clip_norm=0.01, weight_decay=0.0)
    fit(model, Points(), squared_error, config, tmp_path)
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def poisoned(call):
    calls = []

    def objective(model, batch):
        calls.append(1)
        return squared_error(model, batch) * (math.nan if len(calls) == call else 1.0)

    return objective


def test_a_loss_that_is_no_number_stops_with_a_sentence_and_leaves_the_checkpoint(tmp_path):
    with pytest.raises(PentadError, match=r"PTD-233 .*the loss is nan in step 6; lower learning_rate"):
        train(tmp_path, replace(PLAIN, checkpoint_every=4), objective=poisoned(6))
    assert json.loads((tmp_path / "checkpoint" / "state.json").read_text())["step"] == 4


def test_log_lines_say_step_loss_rate_and_seconds(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="pentad.core.trainer"):
        fit(linear(), Points(), squared_error, replace(PLAIN, log_every=4), tmp_path)
    assert [message.split("  ")[0] for message in caplog.messages] == ["step 4", "step 8"]
    assert all(word in caplog.messages[0] for word in ("loss ", "lr ", "seconds "))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"accumulate": 0}, {"ema": 1.0}, {"learning_rate": math.nan}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=f"PTD-230 {next(iter(wrong))}"):
        replace(PLAIN, **wrong)


def test_training_learns(tmp_path):
    model = network()
    before = score(model.eval())["error"]
    _, result = train(tmp_path, replace(FULL, steps=120), model=model)
    assert result.best["error"] < 0.5 * before


def test_the_settings_are_nnu_nets_unless_told():
    assert asdict(TrainConfig(steps=1)) == {
        **{"steps": 1, "batch_size": 2, "optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.99, "nesterov": True},
        **{"betas": (0.9, 0.999), "weight_decay": 3e-5, "schedule": "poly", "warmup_steps": 0, "clip_norm": 12.0},
        **{"precision": "fp32", "accumulate": 1, "ema": None, "validate_every": 0, "patience": 0},
        **{"checkpoint_every": 0, "log_every": 0, "workers": 0, "seed": 0, "device": "auto"},
    }


@pytest.mark.parametrize(
    "least",
    [
        {"steps": 1, "batch_size": 1, "accumulate": 1, "learning_rate": 0, "weight_decay": 0, "clip_norm": 0},
        {"warmup_steps": 0, "validate_every": 0, "patience": 0, "checkpoint_every": 0, "log_every": 0, "workers": 0},
        {"ema": 0.0},
    ],
)
def test_settings_may_reach_their_least_value_and_not_pass_it(least):
    assert replace(PLAIN, **least)
    for name, value in least.items():
        with pytest.raises(UsageError, match=f"PTD-230 {name} is {value - 1}"):
            replace(PLAIN, **{name: value - 1})


def test_the_optimizer_is_the_one_asked_for_with_its_settings():
    config = replace(PLAIN, momentum=0.0, learning_rate=0.3)
    sgd = build_optimizer(linear(), config)
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["nesterov"], sgd.defaults["momentum"], sgd.param_groups[0]["lr"]) == (False, 0.0, 0.3)
    assert build_optimizer(linear(), replace(config, momentum=0.5)).defaults["nesterov"] is True
    assert build_optimizer(linear(), replace(config, momentum=0.5, nesterov=False)).defaults["nesterov"] is False
    adam = build_optimizer(linear(), replace(config, optimizer="adamw", betas=(0.8, 0.95)))
    assert (type(adam), adam.defaults["betas"]) == (torch.optim.AdamW, (0.8, 0.95))


def test_frozen_parameters_are_not_moved_and_scales_make_groups_in_order():
    model = network()
    model[0].weight.requires_grad_(False)
    model[4].bias._learning_rate_scale = 0.5
    model[0].bias._no_weight_decay = True
    groups = build_optimizer(model, replace(PLAIN, learning_rate=0.2, weight_decay=0.1)).param_groups
    assert [(group["scale"], group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        *[(0.5, 0.1, 0.1, 1), (1.0, 0.2, 0.1, 3), (1.0, 0.2, 0.0, 1)],
    ]


def test_a_rate_never_divides_by_nothing_and_ends_near_zero():
    assert learning_rate(TrainConfig(steps=3, warmup_steps=3, learning_rate=1.0), 3) == 1.0
    assert learning_rate(TrainConfig(steps=4, learning_rate=1.0), 3) == pytest.approx(0.25**0.9)
    assert learning_rate(TrainConfig(steps=4, learning_rate=1.0, schedule="cosine"), 1) == pytest.approx(0.8535534)


def test_an_average_copies_whole_numbers_and_is_lent_for_the_block_alone():
    model = network()
    average = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    model[1].num_batches_tracked += 7
    update_average(average, model, 0.5)
    assert average["1.num_batches_tracked"] == 7
    torch.testing.assert_close(average["0.weight"], 0.5 * model[0].weight.detach())
    own = model[0].weight.detach().clone()
    with averaged(model, average):
        assert torch.equal(model[0].weight, average["0.weight"])
    assert torch.equal(model[0].weight, own)
    with averaged(model, {}):
        assert torch.equal(model[0].weight, own)


def test_a_history_of_a_hundred_lines_holds_mean_losses_and_the_rate_of_the_step(tmp_path):
    losses = []

    def noted(model, batch):
        loss = squared_error(model, batch)
        losses.append(loss.item())
        return loss

    config = replace(PLAIN, steps=250, learning_rate=0.01)
    result = fit(linear(), Points(), noted, config, tmp_path)
    assert [line["step"] for line in result.history] == [*range(3, 250, 3), 250]
    assert result.history[1]["loss"] == pytest.approx(sum(losses[3:6]) / 3)
    assert result.history[-1]["loss"] == pytest.approx(losses[249])
    assert result.history[1]["lr"] == pytest.approx(learning_rate(config, 5))
    assert all(earlier["seconds"] <= later["seconds"] for earlier, later in pairwise(result.history))
    assert (result.steps, result.best) == (250, {})
    assert not (tmp_path / "checkpoint").exists()


def test_a_validation_is_due_by_its_steps_and_at_the_end_and_the_first_metric_counts(tmp_path):
    seen = []

    def validate(model):
        seen.append(model.training)
        return {"dice": float(len(seen)), "error": 1.0}

    model = linear()
    config = replace(PLAIN, steps=7, validate_every=3, log_every=100)
    result = fit(model, Points(), squared_error, config, tmp_path, validate=validate)
    assert [(line["step"], line["val_dice"]) for line in result.history] == [(3, 1.0), (6, 2.0), (7, 3.0)]
    assert result.best == {"step": 7, "dice": 3.0, "error": 1.0}
    assert seen == [False] * 3
    assert not model.training


def test_a_metric_that_only_equals_the_best_is_no_gain(tmp_path):
    config = replace(PLAIN, steps=40, validate_every=2, patience=3)
    result = fit(linear(), Points(), squared_error, config, tmp_path, validate=lambda model: {"dice": 0.5})
    assert (result.steps, result.best["step"]) == (8, 2)


def test_a_signal_in_the_last_step_ends_a_finished_training(tmp_path):
    calls = []

    def interrupted(model, batch):
        calls.append(1)
        if len(calls) == PLAIN.steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return squared_error(model, batch)

    assert fit(linear(), Points(), interrupted, PLAIN, tmp_path).steps == PLAIN.steps
    assert (tmp_path / "checkpoint" / "state.json").is_file()


def test_each_seed_draws_samples_of_its_own_order_and_batches_follow_each_other(tmp_path):
    seen = []

    class Numbers(Points):
        def __getitem__(self, ordinal):
            seen.append(ordinal)
            return super().__getitem__(ordinal)

    fit(linear(), Numbers(), squared_error, replace(PLAIN, steps=3, batch_size=2, accumulate=2), tmp_path)
    assert seen == list(range(12))


def test_a_gradient_that_is_no_number_is_told_from_a_loss_that_is_none(tmp_path):
    def rooted(model, batch):
        return (model(batch["x"]) * 0).abs().sqrt().sum()

    with pytest.raises(PentadError, match=r"PTD-233 .*the gradient's norm is nan in step 1;"):
        fit(linear(), Points(), rooted, PLAIN, tmp_path)
