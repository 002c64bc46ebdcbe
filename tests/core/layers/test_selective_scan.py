import hashlib
import json
import math
import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import inputs, largest_share, with_gradients

from pentad.core.errors import UsageError
from pentad.core.layers import machine_code, parity, selective_scan_numba
from pentad.core.layers import selective_scan as scan
from pentad.core.layers.selective_scan import available_backends, preferred_backend, selective_scan

REFERENCE = Path(__file__).parents[2] / "reference"
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


WALKED = ("u", "delta", "B", "C", "z", "out")


def flipped(made):
    return {name: x.flip(-1) if name in WALKED and x is not None else x for name, x in made.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", ["numba", "reference", "doubling"])
def test_published_operator_is_reproduced_with_its_gradients(backend, dtype):
    spec = json.loads((REFERENCE / "selective_scan.json").read_text())
    with preferred_backend(backend):
        rows = parity.selective_scan(spec, dtype)
    assert len(rows) == 100
    assert [row for row in rows if not row[1] <= row[2]] == []


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 2),
    groups=st.integers(1, 3),
    width=st.integers(1, 40),
    states=st.integers(1, 5),
    length=st.integers(1, 80),
    optional=st.sampled_from(["", "D", "z", "b", "Dz", "Dzb"]),
    softplus=st.booleans(),
)
def test_compiled_scan_equals_the_plain_formula_for_any_shape(batch, groups, width, states, length, optional, softplus):
    made = inputs(batch, groups, width, states, length, optional)
    for name in ("delta", "delta_bias"):  # negative steps make the state grow beyond all numbers
        made[name] = made[name] if softplus or made[name] is None else made[name].abs()
    found, wanted = (with_gradients(made, backend, softplus) for backend in ("numba", "reference"))
    assert largest_share(found, wanted) < 1e-11


@pytest.mark.parametrize("backend", ["numba", "reference", "doubling"])
def test_gradients_pass_gradcheck(backend):
    leaves = [x.requires_grad_() for x in inputs(1, 2, 3, 2, 5).values()]
    assert torch.autograd.gradcheck(
        lambda *x: selective_scan(*x, delta_softplus=True, return_last_state=True, backend=backend), leaves
    )


def test_float32_stays_within_a_few_last_bits_of_float64():
    made = inputs(width=64, states=16, length=300)
    single = {name: x.float() for name, x in made.items()}
    exact = with_gradients({name: x.double() for name, x in single.items()}, "reference")
    assert largest_share(with_gradients(single, "numba"), exact) < 5e-6


def test_three_axes_mean_one_group():
    made = inputs()
    flat = made | {"B": made["B"][:, 0], "C": made["C"][:, 0]}
    assert torch.equal(selective_scan(**made), selective_scan(**flat))


def test_strides_do_not_change_a_bit():
    made = inputs(batch=2, width=40, length=50)
    turned = {k: x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x for k, x in made.items()}
    sliced = {k: torch.stack([x, x], dim=-1)[..., 0] for k, x in made.items()}
    wanted = with_gradients(made, "numba")
    for other in (turned, sliced):
        found = with_gradients(other, "numba")
        assert all(torch.equal(found[k], wanted[k]) for k in wanted)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 2),
    width=st.integers(1, 40),
    states=st.integers(1, 5),
    length=st.integers(1, 80),
    optional=st.sampled_from(["", "zb", "Dzb"]),
    layout=st.sampled_from(["rows", "turned", "sliced"]),
)
def test_walking_backwards_is_walking_a_flipped_sequence_to_the_last_bit(
    groups, width, states, length, optional, layout
):
    made = inputs(2, groups, width, states, length, optional, torch.float32)
    laid = {
        "rows": lambda x: x,
        "turned": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
        "sliced": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    }[layout]
    other = {name: x if x is None or name not in WALKED else laid(x) for name, x in made.items()}
    found = with_gradients(other, "numba", reverse=True)
    wanted = flipped(with_gradients(flipped(made), "numba"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("backend", ["numba", "doubling"])
def test_walking_backwards_equals_the_plain_formula(backend):
    made = inputs(2, 2, 20, 3, 45)
    found, wanted = (with_gradients(made, name, reverse=True) for name in (backend, "reference"))
    assert largest_share(found, wanted) < 1e-11


@pytest.mark.parametrize("threads", [2, 3])
def test_number_of_threads_does_not_change_a_bit(threads):
    made = inputs(width=100, states=16, length=700, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        wanted = with_gradients(made, "numba")
        torch.set_num_threads(threads)
        found = with_gradients(made, "numba")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("step", [1e-30, 1e10, 1e20, 3e38])
def test_steepest_decay_leaves_only_the_last_input(step):
    made = inputs(width=16, states=4, length=3, optional="", dtype=torch.float32)
    made["delta"] = torch.full_like(made["delta"], step)
    made["A"] = torch.tensor([-1e-3, -1.0, -1e4, -1e6]).repeat(16, 1)
    made["u"] = made["u"] * (1 / step)
    found, wanted = (with_gradients(made, backend, softplus=False) for backend in ("numba", "reference"))
    for name in ("out", "u"):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-5)


FORKED = """
import os, torch
from pentad.core.layers.selective_scan import selective_scan
torch.set_num_threads(2)
draws = torch.Generator().manual_seed(0)
u, delta = (torch.rand(1, 100, 300, generator=draws) for _ in range(2))
A = -torch.rand(100, 16, generator=draws)
B, C = (torch.rand(1, 16, 300, generator=draws) for _ in range(2))
answer = lambda: selective_scan(u, delta, A, B, C, backend="numba").numpy().tobytes()
wanted = answer()
child = os.fork()
if not child:
    os._exit(0 if answer() == wanted else 1)
raise SystemExit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_process_wakes_threads_of_its_own():
    # Apart, and with arrays too small for torch's own threads, which a forked process would wait for without end.
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=300).returncode == 0


def test_steps_that_forget_everything_give_finite_gradients():
    made = inputs(width=16, length=70, optional="", dtype=torch.float32)
    made["delta"] = torch.full_like(made["delta"], 2.0)
    made["A"] = torch.full_like(made["A"], -5e4)
    found = with_gradients(made, "numba", softplus=False)
    memoryless = 2 * made["u"] * (made["B"] * made["C"]).sum(2)
    torch.testing.assert_close(found["out"], memoryless, rtol=1e-5, atol=1e-5)
    assert all(torch.isfinite(x).all() for x in found.values())


@pytest.mark.parametrize("decay", [1e-6, 1e-3, 1.0])
def test_state_does_not_drift_over_65536_steps(decay):
    length = 65536
    ones = torch.ones(1, 16, length)
    A = torch.full((16, 1), -decay)
    one = torch.ones(1, 1, length)
    leaves = [ones.clone().requires_grad_(), ones, A.requires_grad_(), one, one]
    out = selective_scan(*leaves)
    steps = torch.arange(1, length + 1, dtype=torch.float64)
    e = math.exp(-float(torch.tensor(decay)))
    closed = (1 - e**steps) / (1 - e)
    assert float((out.detach().double() / closed - 1).abs().max()) < 1e-3
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.sum(), [leaves[0], A]))


def test_not_a_number_is_passed_on_not_hidden():
    made = inputs(width=16, length=40, optional="")
    made["delta"][0, 3, 10] = math.nan
    out = selective_scan(**made)
    assert out[0, 3, 10:].isnan().all()
    assert not out[0, :3].isnan().any()


def test_half_precision_is_computed_in_float32():
    made = {name: x.bfloat16() for name, x in inputs(dtype=torch.float32).items()}
    out, last = selective_scan(**made, delta_softplus=True, return_last_state=True)
    wide = selective_scan(**{name: x.float() for name, x in made.items()}, delta_softplus=True)
    assert (out.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(out, wide.bfloat16())


def test_operator_passes_the_checks_of_torch():
    made = inputs(2, 1, 20, 3, 7)
    made["u"] = made["u"].transpose(1, 2).contiguous().transpose(1, 2)  # channels side by side, as no other is
    u, delta, A, B, C, D, z, bias = (x.requires_grad_() for x in made.values())
    torch.library.opcheck(torch.ops.pentad.selective_scan.default, (u, delta, A, B, C, D, z, bias, True, True, True))


def test_compiling_and_exporting_keep_the_operator_whole():
    class Scan(torch.nn.Module):
        def forward(self, u, delta, A, B, C):
            return selective_scan(u, delta, A, B, C, delta_softplus=True)

    made = [x for x in inputs(optional="").values() if x is not None]
    wanted = selective_scan(*made, delta_softplus=True)
    compiled = torch.compile(Scan(), backend="aot_eager", fullgraph=True)
    exported = torch.export.export(Scan(), tuple(made))
    assert torch.equal(compiled(*made), wanted)
    assert torch.equal(exported.module()(*made), wanted)
    assert sum("pentad.selective_scan" in str(node.target) for node in exported.graph.nodes) == 1


def test_prediction_keeps_no_states():
    made = inputs()
    for keep, size in ((False, 0), (True, 2 * 2 * 3 * 16)):
        kept = torch.ops.pentad.selective_scan(*made.values(), True, False, keep)[2]
        assert kept.numel() == size


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"delta": torch.zeros(1, 20, 39)}, r"PTD-122.*delta.*\(1, 20, 39\); give \(1, 20, 40\)"),
        ({"A": torch.zeros(19, 3)}, "PTD-122.*A of"),
        ({"B": torch.zeros(1, 3, 3, 40)}, "PTD-122.*20 channels in 3 groups"),
        ({"C": torch.zeros(1, 2, 3, 40)}, "PTD-122.*C of"),
        ({"u": torch.zeros(20, 40)}, "PTD-122.*u "),
        ({"A": torch.zeros(20, 3, dtype=torch.complex64)}, "PTD-123.*A of"),
        ({"backend": "numbar"}, "PTD-120.*did you mean 'numba'"),
    ],
)
def test_wrong_arguments_are_named(change, match):
    with pytest.raises(UsageError, match=match):
        selective_scan(**(inputs(dtype=torch.float32) | change))


def test_backends_say_which_is_used_and_can_be_preferred():
    found = available_backends()
    assert (found["numba"], found["reference"], found["doubling"]) == ("used on cpu", "available", "available")
    with preferred_backend("reference"):
        found = available_backends()
    assert (found["numba"], found["reference"].startswith("used on cpu")) == ("available", True)


def test_backend_of_another_device_says_so():
    made = {name: x.to("meta") for name, x in inputs().items()}
    with pytest.raises(UsageError, match=r"PTD-121.*runs on cpu only, the input is on meta"):
        selective_scan(**made, backend="numba")


def test_cache_follows_the_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine_code.cache_folder() == tmp_path / "pentad" / "code"


def test_kept_code_that_was_changed_is_not_used(tmp_path):
    file = tmp_path / "code.o"
    file.write_bytes(hashlib.sha256(b"code").digest() + b"code")
    assert machine_code._kept(file) == b"code"
    file.write_bytes(file.read_bytes()[:-1])
    assert machine_code._kept(file) is None


SMALL_SCAN = """
import logging, sys, torch
logging.basicConfig(level=logging.INFO)
from pentad.core.layers.selective_scan import selective_scan
x = torch.ones(1, 1, 3)
print(selective_scan(x, x, -torch.ones(1, 1), x, x).shape, "numba" in sys.modules)
from pentad.core.layers.selective_scan_numba import _kernel
print("passes loaded:", _kernel.cache_info().currsize)
"""


def test_a_second_program_loads_the_code_without_the_compiler_and_in_silence():
    x = torch.ones(1, 1, 3)
    selective_scan(x, x, -torch.ones(1, 1), x, x)
    done = subprocess.run([sys.executable, "-c", SMALL_SCAN], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["torch.Size([1, 1, 3]) False", "passes loaded: 1"]
    assert done.stderr == ""


@pytest.fixture
def twice(tmp_path, monkeypatch):
    """A function that compiles or loads a loop of one line, as the scan's loops are, and checks that it works."""
    (tmp_path / "loops.py").write_text("def twice_task(x, out, numbers, index):\n    out[index] = 2 * x[index]\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def load_and_run():
        loop = machine_code.load("loops", "twice_task", "float32", [str(tmp_path / "loops.py")])
        x, out, numbers = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3), torch.zeros(1, dtype=torch.int64)
        loop(x.data_ptr(), out.data_ptr(), numbers.data_ptr(), 1)
        assert out.tolist() == [0, 4, 0]

    return load_and_run


def test_a_loop_is_compiled_once_says_so_and_is_then_loaded_in_silence(twice, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with caplog.at_level("INFO", "pentad"):
        twice()
        (kept,) = (tmp_path / "cache" / "pentad" / "code").glob("*/twice_task-float32.o")
        assert [record.getMessage() for record in caplog.records] == [
            "compiling loops.twice, float32, once on this machine"
        ]
        twice()
        assert len(caplog.records) == 1
        kept.write_bytes(kept.read_bytes()[:-1])
        twice()
        assert len(caplog.records) == 2


def test_without_a_cache_folder_a_loop_compiles_says_so_and_runs(twice, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level("INFO", "pentad"):
        for _ in range(2):
            twice()
    assert [record.getMessage() for record in caplog.records] == [
        "compiling loops.twice, float32, again in every run, as the cache folder is not writable"
    ] * 2


def test_steps_are_taken_as_they_are_and_forwards_unless_told():
    made = inputs(optional="zb")
    plain = selective_scan(**made)
    assert torch.equal(plain, selective_scan(**made, delta_softplus=False, return_last_state=False, reverse=False))
    assert not torch.equal(plain, selective_scan(**made, delta_softplus=True))
    assert not torch.equal(plain, selective_scan(**made, reverse=True))


def test_the_use_of_a_backend_is_told_by_the_devices_that_are_there(monkeypatch):
    chosen = {"cpu": "numba", "cuda": "triton"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scan._use("triton", chosen) == "no cuda device here; used where there is one"
    assert scan._use("mamba_ssm", chosen) == "no cuda device here"
    assert scan._use("numba", chosen) == "used on cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert scan._use("triton", chosen) == "used on cuda"
    assert scan._use("mamba_ssm", chosen) == "available"
    assert scan._use("reference", dict.fromkeys(chosen, "reference")) == "used on cpu and cuda"


def test_a_backend_that_cannot_be_loaded_says_why_and_is_passed_over(monkeypatch):
    monkeypatch.setattr(scan, "_PROBLEMS", {})
    broken = scan._BACKENDS["numba"]._replace(module="pentad.core.layers.none")
    monkeypatch.setitem(scan._BACKENDS, "numba", broken)
    assert available_backends()["numba"] == "cannot be loaded (No module named 'pentad.core.layers.none')"
    assert available_backends()["reference"].startswith("used on cpu")
    with pytest.raises(UsageError, match=r"PTD-121 .*'numba' cannot be loaded"):
        selective_scan(**inputs(), backend="numba")


def test_a_preference_ends_with_its_block_whatever_happens():
    with pytest.raises(KeyError), preferred_backend("reference"):
        raise KeyError
    assert scan._preferred == "auto"
    with preferred_backend("auto"):
        assert scan._choose("auto", "cpu") == "numba"


def test_results_keep_the_channels_of_a_step_side_by_side():
    x = torch.zeros(2, 5, 3)
    assert scan.result_like(x).stride() == (15, 3, 1)
    assert scan.result_like(x.transpose(1, 2).contiguous().transpose(1, 2)).stride() == (15, 1, 5)
    assert scan.result_like(torch.zeros(1, 3, 2).transpose(1, 2)).stride() == (6, 1, 2)
    assert scan.result_like(torch.zeros(2, 5, 1)).stride() == (5, 1, 1)


def test_what_is_kept_is_a_state_a_block_of_16_channels_and_32_steps():
    u, A, B = torch.zeros(3, 34, 65), torch.zeros(34, 5), torch.zeros(3, 2, 5, 65)
    assert scan.checkpoint_size(u, A, B) == 3 * (2 * 2) * 3 * 5 * 16


def test_the_cache_lies_at_home_where_no_cache_home_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in ("", "relative/place"):
        monkeypatch.setenv("XDG_CACHE_HOME", place)
        assert machine_code.cache_folder() == tmp_path / ".cache" / "pentad" / "code"


def test_kept_code_is_found_by_the_content_of_its_sources(tmp_path):
    sources = [tmp_path / "a.py", tmp_path / "b.py"]
    keys = set()
    for texts in (("x", "y"), ("x", "z"), ("w", "y"), ("x", "y")):
        for path, text in zip(sources, texts, strict=True):
            path.write_text(text)
        keys.add(machine_code._key(list(map(str, sources))))
    assert len(keys) == 3
    assert all(len(key) == 16 for key in keys)


def test_threads_share_a_list_and_a_mistake_in_any_is_raised():
    taken, todo = [], iter(range(50))

    def work():
        for number in todo:
            taken.append(number)

    machine_code.on_threads(work, 3)
    assert sorted(taken) == list(range(50))
    machine_code.on_threads(lambda: taken.append("alone"), 1)
    assert taken[50:] == ["alone"]

    def wrong():
        if threading.current_thread() is not threading.main_thread():
            raise KeyError("lost")
        time.sleep(0.2)

    with pytest.raises(KeyError, match="lost"):
        machine_code.on_threads(wrong, 2)


def test_huge_pages_are_asked_for_where_the_system_has_them():
    assert callable(selective_scan_numba._advise.__wrapped__()) is hasattr(mmap, "MADV_HUGEPAGE")
