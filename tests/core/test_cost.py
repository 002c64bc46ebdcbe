import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from pentad.core import cost
from pentad.core.cost import count_flops, measure, scan_flops
from pentad.core.layers.mamba import Mamba


class Attention(nn.Module):
    def forward(self, x):
        return functional.scaled_dot_product_attention(x, x, x)


def test_a_convolution_is_counted_by_its_formula():
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert count_flops(layer, torch.zeros(2, 3, 10, 12)) == 2 * 2 * (10 * 12) * 8 * 3 * 9


def test_attention_is_counted_as_its_two_products():
    assert count_flops(Attention(), torch.zeros(2, 4, 16, 8)) == 2 * (2 * 2 * 4 * 16 * 16 * 8)


def test_the_selective_scan_counts_beside_the_projections():
    layer, length = Mamba(16), 50
    inner, rank, states = 32, 1, 16
    products = 2 * length * (16 * 2 * inner + inner * (rank + 2 * states) + rank * inner + inner * 16)
    convolution = 2 * (length + 3) * inner * 4  # both ends are padded
    counted = count_flops(layer, torch.zeros(1, length, 16))
    assert counted == products + convolution + scan_flops(1, inner, length, states)


def test_counting_leaves_the_mode_as_it_was():
    layer = nn.Sequential(nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1)).train()
    count_flops(layer, torch.ones(4, 1, 9))
    assert layer.training
    assert float(layer[1].num_batches_tracked) == 0


def test_a_step_is_timed():
    layer = nn.Linear(4, 4)
    found = measure(layer, torch.zeros(1, 4), lambda: layer(torch.zeros(1, 4)), steps=3)
    assert found.parameters == 20
    assert found.gflop == pytest.approx(32e-9)
    assert 0 < found.seconds < 60


def test_a_steps_memory_is_seen():
    # In a process of its own: the kernel takes idle pages from a long-lived one meanwhile, which hides the growth.
    program = (
        "import torch; from pentad.core.cost import measure; layer = torch.nn.Linear(4, 4);"
        "print(measure(layer, torch.zeros(1, 4), lambda: torch.ones(256, 2**18).sum(), steps=3).peak_mb)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert float(told) > 128  # of the 256 that a step takes


def test_five_steps_are_timed_after_two_and_the_median_counts(monkeypatch):
    took = iter([9.0, 9.0, 0.5, 0.1, 0.4, 0.2, 0.3])
    now = [0.0]

    def step():
        now[0] += next(took)

    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    layer = nn.Linear(4, 4)
    layer.bias.requires_grad_(False)
    found = measure(layer, torch.zeros(1, 4), step)
    assert found.seconds == pytest.approx(0.3)
    assert found.parameters == 16
    assert next(took, None) is None


def test_a_scan_takes_nine_operations_a_state_and_three_a_channel():
    assert scan_flops(2, 3, 5, 7) == 2 * 3 * 5 * (9 * 7 + 3)


def test_memory_is_read_in_megabytes_or_is_unknown(monkeypatch):
    text = "VmHWM:\t  4096 kB\nVmRSS:\t  2048 kB\n"
    monkeypatch.setattr(cost.Path, "read_text", lambda self, encoding: text)
    assert (cost._own_mb("VmRSS"), cost._own_mb("VmHWM")) == (2.0, 4.0)
    assert math.isnan(cost._own_mb("VmSwap"))
    monkeypatch.setattr(cost.Path, "read_text", lambda self, encoding: (_ for _ in ()).throw(OSError()))
    assert math.isnan(cost._own_mb("VmRSS"))
