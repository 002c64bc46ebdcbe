"""The Mamba block (v1), with the tensor names, shapes and initialisation of the published module.

Paper: Gu and Dao, arXiv 2312.00752, sections 3.4 and 3.6; published code: state-spaces/mamba (Apache-2.0). A checkpoint
of its ``Mamba`` module loads unchanged. Deviations: no cache for step-by-step generation, and everything between the
first and the last projection stays channels-first, so that no intermediate tensor is copied.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.layers.selective_scan import selective_scan

_STEP_RANGE = (1e-3, 1e-1)
_STEP_FLOOR = 1e-4


class Mamba(nn.Module):
    """A sequence layer, (batch, length, d_model) to the same shape; norm and residual are the caller's.

    Args:
        d_model: Features per position.
        d_state: States per channel (N).
        d_conv: Taps of the causal depthwise convolution.
        expand: Inner channels per feature.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self._start_steps()
        # Marks that optimisers and initialisers of the published code look for.
        for unpunished in (self.A_log, self.D):
            unpunished._no_weight_decay = True  # type: ignore[attr-defined]
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]

    def _start_steps(self) -> None:
        """Start with steps softplus(dt_proj.bias) log-uniform in [1e-3, 0.1]."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        low, high = map(math.log, _STEP_RANGE)
        step = torch.exp(torch.rand(self.d_inner) * (high - low) + low).clamp(min=_STEP_FLOOR)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for ``x`` (batch, length, d_model)."""
        return self.stages(x)["output"]

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Return the intermediate tensors by name: conv, delta_raw, B, C, y (channels first) and output."""
        inner, gate = _project(self.in_proj.weight, x.transpose(1, 2)).chunk(2, dim=1)  # each (b, e, L)
        inner = functional.silu(self.conv1d(inner)[..., : x.shape[1]])  # both ends are padded: the tail is dropped
        sizes = [self.dt_rank, self.d_state, self.d_state]
        step, B, C = torch.split(_project(self.x_proj.weight, inner), sizes, dim=1)
        delta = _project(self.dt_proj.weight, step)  # (b, e, L); its bias is the scan's
        A = -torch.exp(self.A_log.float() if self.A_log.dtype != torch.float64 else self.A_log)
        y = selective_scan(inner, delta, A, B, C, self.D, gate, self.dt_proj.bias, delta_softplus=True)
        output = self.out_proj(y.transpose(1, 2))
        return {"conv": inner, "delta_raw": delta, "B": B, "C": C, "y": y, "output": output}


def _project(weight: Tensor, x: Tensor) -> Tensor:
    """Return the weight (out, in) applied to x (batch, in, length); ``@`` would copy both into one flat product."""
    return torch.bmm(weight.expand(x.shape[0], -1, -1), x)
