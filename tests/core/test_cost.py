import pytest
import torch
from torch import nn
from torch.nn import functional

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


def test_a_step_is_timed_and_its_memory_seen():
    layer = nn.Linear(4, 4)
    cost = measure(layer, torch.zeros(1, 4), lambda: torch.ones(64, 2**18).sum(), steps=3)
    assert cost.parameters == 20
    assert cost.gflop == pytest.approx(32e-9)
    assert 0 < cost.seconds < 60
    assert cost.peak_mb > 32  # of the 64 that a step takes
