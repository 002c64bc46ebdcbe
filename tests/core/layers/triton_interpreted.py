"""Compare the Triton backend with the plain formula in Triton's interpreter, and print the findings as JSON.

A process of its own: whether Triton interprets is decided when it is imported. The interpreter takes associative scans
and reductions element by element; here whole arrays are combined by the same functions, in larger tiles.
"""

import json
import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from scans import ODD_SHAPES, inputs, largest_share, with_gradients
from triton.runtime import interpreter

from pentad.core.layers import parity, selective_scan_triton
from pentad.core.layers.selective_scan import preferred_backend, selective_scan

REFERENCE = Path(__file__).parents[2] / "reference"


def by_doubling(self, tensors):
    arrays, step = [np.moveaxis(x.handle.data, self.axis, 0) for x in tensors], 1
    while step < len(arrays[0]):
        pairs = zip([np.roll(a, step, axis=0) for a in arrays] + arrays, [*tensors, *tensors], strict=True)
        made = self.combine_fn.fn(*(self.to_tensor(a, x.dtype) for a, x in pairs))
        made = [x.handle.data for x in made]
        arrays = [np.concatenate([a[:step], x[step:]]) for a, x in zip(arrays, made, strict=True)]
        step *= 2
    return [self.to_tensor(np.moveaxis(a, 0, self.axis), x.dtype) for a, x in zip(arrays, tensors, strict=True)]


def by_slices(self, tensors):
    slices = [np.moveaxis(x.handle.data, self.axis, 0) for x in tensors]
    total = [x[0] for x in slices]
    for row in range(1, len(slices[0])):
        pairs = zip([*total, *(x[row] for x in slices)], [*tensors, *tensors], strict=True)
        made = self.combine_fn.fn(*(self.to_tensor(a, x.dtype) for a, x in pairs))
        total = [x.handle.data for x in (made if isinstance(made, tuple) else (made,))]
    total = [np.expand_dims(x, self.axis) if self.keep_dims else x for x in total]
    return [self.to_tensor(a, x.dtype) for a, x in zip(total, tensors, strict=True)]


def shape_errors():
    found = []
    for shape in ODD_SHAPES:
        made, softplus = inputs(**shape), "z" not in shape.get("optional", "")
        made["delta"] = made["delta"] if softplus else made["delta"].abs()
        found.append(largest_share(*(with_gradients(made, name, softplus) for name in ("triton", "reference"))))
    return found


def parity_rows(dtype, every):
    spec = json.loads((REFERENCE / "selective_scan.json").read_text())
    small = ("basic", "bare", "bias_no_softplus", "grouped4_scan")
    spec["cases"] = [case for case in spec["cases"] if every or case["name"] in small]
    with preferred_backend("triton"):
        return parity.selective_scan(spec, dtype)


class Scan(torch.nn.Module):
    def forward(self, u, delta, A, B, C):
        return selective_scan(u, delta, A, B, C, delta_softplus=True, backend="triton")


def compiled_and_exported():
    made = [x for x in inputs(optional="").values() if x is not None]
    wanted = Scan()(*made)
    exported = torch.export.export(Scan(), tuple(made))
    whole = sum("pentad.selective_scan_triton" in str(node.target) for node in exported.graph.nodes)
    same = [torch.compile(Scan(), backend="aot_eager", fullgraph=True), exported.module()]
    return whole == 1 and all(torch.equal(function(*made), wanted) for function in same)


def opcheck():
    made = (x.requires_grad_() for x in inputs(1, 1, 3, 2, 7).values())
    return torch.library.opcheck(torch.ops.pentad.selective_scan_triton.default, (*made, True, True))


def other_properties():
    made = inputs(width=6, length=70)
    turned = {k: x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x for k, x in made.items()}
    found, again, strided = (with_gradients(x, "triton") for x in (made, made, turned))
    half = {name: x.bfloat16() for name, x in made.items()}
    wide, narrow = (
        selective_scan(**given, delta_softplus=True, backend="triton")
        for given in ({name: x.float() for name, x in half.items()}, half)
    )
    forgetting = inputs(width=2, length=70, optional="", dtype=torch.float32)
    forgetting |= {"delta": torch.full((1, 2, 70), 2.0), "A": torch.full((2, 3), -5e4)}
    return {
        "repeats": all(torch.equal(found[k], again[k]) for k in found),
        "strides": all(torch.equal(found[k], strided[k]) for k in found),
        "half": torch.equal(narrow, wide.bfloat16()),
        "finite": all(x.isfinite().all().item() for x in with_gradients(forgetting, "triton", False).values()),
        "empty": [*selective_scan(**inputs(batch=0), backend="triton").shape],
        "compiled": compiled_and_exported(),
        "opcheck": sorted(set(opcheck().values())),
    }


if __name__ == "__main__":
    made = inputs(width=2, states=2, length=17)
    plain = largest_share(*(with_gradients(made, backend) for backend in ("triton", "reference")))
    interpreter.ScanOps.generic_scan, interpreter.ReduceOps.generic_reduce = by_doubling, by_slices
    selective_scan_triton._WARP, selective_scan_triton._TILE = 512, 16384
    if sys.argv[1:] == ["every"]:
        sys.stdout.write(json.dumps({str(dtype): parity_rows(dtype, True) for dtype in (torch.float64, torch.float32)}))
    else:
        rows = {str(dtype): parity_rows(dtype, False) for dtype in (torch.float64, torch.float32)}
        sys.stdout.write(json.dumps({"plain": plain, "shapes": shape_errors(), "parity": rows} | other_properties()))
