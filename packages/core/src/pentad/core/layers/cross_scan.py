"""The selective scan of an image along four routes: the core of VMamba's SS2D.

Paper: Liu et al., "VMamba: Visual State Space Model", arXiv 2401.10166, section 4; used as published in ChangeMamba's
encoder and decoders (arXiv 2404.03425). Tensor layouts are those of the published parameters. Deviation: the skip
``D x`` of the four routes is added once, with the sum of their D, which differs in the last bits.

The projections act on each pixel alone, so they are taken in the order in which the route meets the pixels, and
nothing but the image and the result is ever put into another order; the route back is the same sequence, walked from
its end. The channels of a pixel stay side by side throughout, so that turning moves whole pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pentad.core.errors import UsageError
from pentad.core.layers.selective_scan import selective_scan

ROUTES = 4


def cross_selective_scan(
    x: Tensor,
    projection: Tensor,
    step: Tensor,
    step_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Return the sum over four routes of the selective scan of ``x`` along each, put back on the grid.

    Route 0 goes through the rows (columns fastest), 1 through the columns (rows fastest), 2 and 3 are 0 and 1 reversed.
    On route k each pixel's dt (R), B (N) and C (N) are ``projection[k]`` times the pixel; the step is
    softplus(``step[k]`` dt + ``step_bias[k]``).

    Args:
        x: Image, (batch, channels, height, width), any strides; best with the channels of a pixel side by side.
        projection: (4, R + 2 N, channels), rows dt, B, C.
        step: (4, channels, R).
        step_bias: (4, channels).
        A: State matrix, (4 channels, N), route by route, meant to be negative.
        D: Skip, (4 channels), route by route.
        backend: Of `selective_scan`.

    Returns:
        Shaped as ``x`` and of its dtype, with the channels of a pixel side by side.

    Raises:
        UsageError: The shapes do not fit each other (PTD-430), or what `selective_scan` raises.
    """
    _check(x, projection, step, step_bias, A, D)
    batch, channels, height, width = x.shape
    states, rank = A.shape[1], step.shape[2]
    image = x.permute(0, 2, 3, 1).contiguous()
    skip = D.view(ROUTES, channels).sum(0)
    merged = []
    for first, lines in enumerate((image, image.transpose(1, 2).contiguous())):
        sequence = lines.flatten(1, 2).transpose(1, 2)
        there_and_back = (first, first + 2)
        known = _times(torch.cat([projection[route] for route in there_and_back]), sequence)
        total: Tensor | None = None
        for route, own in zip(there_and_back, known.chunk(2, dim=1), strict=True):
            dt, B, C = torch.split(own, [rank, states, states], dim=1)
            y = selective_scan(
                sequence,
                _pixels_times(dt, step[route]),
                A[route * channels : (route + 1) * channels],
                B,
                C,
                skip if route == 0 else None,
                delta_bias=step_bias[route],
                delta_softplus=True,
                reverse=route >= 2,
                backend=backend,
            )
            total = y if total is None else total.add_(y)
        assert total is not None
        merged.append(total)
    rows, columns = (total.transpose(1, 2) for total in merged)
    image = rows.reshape(batch, height, width, channels)
    image += columns.reshape(batch, width, height, channels).transpose(1, 2)
    return image.permute(0, 3, 1, 2)


def _pixels_times(pixels: Tensor, matrix: Tensor) -> Tensor:
    """Return the matrix times each pixel (batch, channels, length), with the channels of a result side by side."""
    return torch.bmm(pixels.transpose(1, 2), matrix.t().expand(pixels.shape[0], -1, -1)).transpose(1, 2)


def _times(matrix: Tensor, pixels: Tensor) -> Tensor:
    """Return the matrix times each pixel, in contiguous memory, which broadcasting a plain product would not give."""
    return torch.bmm(matrix.expand(pixels.shape[0], -1, -1), pixels)


def _check(x: Tensor, projection: Tensor, step: Tensor, step_bias: Tensor, A: Tensor, D: Tensor) -> None:
    if x.dim() != 4 or A.dim() != 2 or step.dim() != 3 or min(x.shape[2:]) < 1:
        found = f"the cross scan got x {tuple(x.shape)}, step {tuple(step.shape)}, A {tuple(A.shape)}"
        remedy = "give x (batch, channels, height, width), step (4, channels, R) and A (4 channels, N)"
        raise UsageError("PTD-430", found, remedy)
    channels, states, rank = x.shape[1], A.shape[1], step.shape[2]
    wanted = {
        "projection": (projection, (ROUTES, rank + 2 * states, channels)),
        "step": (step, (ROUTES, channels, rank)),
        "step_bias": (step_bias, (ROUTES, channels)),
        "A": (A, (ROUTES * channels, states)),
        "D": (D, (ROUTES * channels,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            found = f"{name} of the cross scan has shape {tuple(tensor.shape)}"
            raise UsageError("PTD-430", found, f"give {shape}, as x, A and step say")
