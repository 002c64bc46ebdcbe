import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pentad.core.errors import UsageError
from pentad.core.layers import selective_scan_mamba_ssm
from pentad.core.layers.selective_scan import available_backends, selective_scan
from pentad.core.layers.selective_scan_mamba_ssm import Need

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no wheel for here")


def interpreted(*arguments):
    command = [sys.executable, str(Path(__file__).with_name("triton_interpreted.py")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found():
    return interpreted()


@needs_triton
@pytest.mark.slow
def test_kernels_equal_the_plain_formula_for_odd_shapes(found):
    assert found["plain"] < 1e-11
    assert max(found["shapes"]) < 1e-11


@needs_triton
@pytest.mark.slow
def test_published_operator_is_reproduced_by_the_kernels(found):
    assert [len(rows) for rows in found["parity"].values()] == [34, 34]
    assert [row for rows in found["parity"].values() for row in rows if not row[1] <= row[2]] == []


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("property_", ["repeats", "strides", "half", "finite", "compiled"])
def test_kernels_keep_what_the_other_backends_promise(found, property_):
    assert found[property_] is True


@needs_triton
@pytest.mark.slow
def test_kernels_operator_passes_the_checks_of_torch_and_takes_no_samples(found):
    assert found["opcheck"] == ["SUCCESS"]
    assert found["empty"] == [0, 20, 40]


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        (Need(torch.float64), "no float64"),
        (Need(grad_last=True), "no gradient on from the last state"),
        (Need(states=257), "1 to 256 states"),
        (Need(elements=0), "no empty input"),
        (Need(), "^$"),
    ],
)
def test_the_published_kernel_refuses_what_it_lacks(need, reason):
    assert re.search(reason, selective_scan_mamba_ssm.refusal(need))


@pytest.mark.parametrize(("name", "module"), [("mamba_ssm", "mamba_ssm"), ("triton", "triton")])
def test_a_gpu_backend_asked_for_on_a_cpu_says_why_not(name, module):
    x, A = torch.ones(1, 1, 3), -torch.ones(1, 1)
    with pytest.raises(UsageError, match=f"PTD-121.*'{name}' runs on cuda only, the input is on cpu"):
        selective_scan(x, x, A, x, x, backend=name)
    if importlib.util.find_spec(module) is None:
        assert available_backends()[name].startswith("cannot be loaded")
