"""What every export shares: a folder that is whole or not there, proven numbers, an ONNX file that says what it is."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from pentad.core.bundle import PublishedModel, load_bundle, save_bundle
from pentad.core.errors import ModelError, UsageError
from pentad.core.export import REPORT, check_libraries, compare, exporter, new_export, write_onnx, write_report


@dataclass(frozen=True)
class Width:
    width: int = 3


class Doubled(PublishedModel):
    def __init__(self, config: Width) -> None:
        super().__init__(config)
        self.layer = nn.Linear(config.width, 2)

    def forward(self, x, shift):
        return self.layer(x) + shift, 2 * x


@pytest.fixture
def bundle(tmp_path):
    save_bundle(
        tmp_path / "bundle", Doubled(Width()), domain="core", name="doubled", settings={}, card="", provenance={}
    )
    return load_bundle(tmp_path / "bundle", "core", {"doubled": Doubled})


def begin(out, kind="plain", overwrite=False):
    return new_export(out, kind, ("plain", "onnx"), "point_clouds", overwrite=overwrite)


def test_an_export_stands_in_its_place_whole(tmp_path):
    with begin(tmp_path / "below" / "out") as folder:
        (folder / REPORT).write_text("{}")
        assert not (tmp_path / "below" / "out").exists()
    assert [path.name for path in (tmp_path / "below").rglob("*")] == ["out", REPORT]


def test_an_export_that_fails_leaves_nothing(tmp_path):
    def fail():
        with begin(tmp_path / "out") as folder:
            (folder / "half").write_text("")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_only_if_asked_and_nothing_else_ever(tmp_path):
    (tmp_path / "out").mkdir()
    with begin(tmp_path / "out") as folder:  # an empty folder is free
        (folder / REPORT).write_text("first")
    with pytest.raises(UsageError, match=r"PTD-592 .*--overwrite"), begin(tmp_path / "out"):
        pass
    with begin(tmp_path / "out", overwrite=True) as folder:
        (folder / REPORT).write_text("second")
    assert (tmp_path / "out" / REPORT).read_text() == "second"
    (tmp_path / "out" / REPORT).rename(tmp_path / "out" / "letters.txt")
    with pytest.raises(UsageError, match=r"PTD-592 .*no export"), begin(tmp_path / "out", overwrite=True):
        pass
    assert (tmp_path / "out" / "letters.txt").read_text() == "second"
    with pytest.raises(UsageError, match="PTD-592"), begin(tmp_path / "out" / "letters.txt"):
        pass


def test_an_unknown_format_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"PTD-590 .*'onx' is no format.*'onnx'"), begin(tmp_path / "out", "onx"):
        pass


def test_a_missing_library_names_the_extra_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr("pentad.core.export.ONNX", ("json", "no_such_library"))
    remedy = r"PTD-591 .*pip install 'pentad-point-clouds\[onnx\]'"
    with pytest.raises(UsageError, match=remedy), begin(tmp_path / "out", "onnx"):
        pass
    with begin(tmp_path / "out"):  # another format needs none of them
        pass
    check_libraries(("json",), "")


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([[3.0, 1.0], [0.0, 2.01]], "differs by 1.0e-02 of 3.0e"),
        ([[3.0, 1.0], [0.0, np.nan]], "differs by nan"),
        ([[1.0, 3.0], [0.0, 2.0]], "50.00% of classes agree"),
    ],
)
def test_other_numbers_are_refused(found, problem, tmp_path):
    wanted = np.array([[3.0, 1.0], [0.0, 2.0]])
    with pytest.raises(ModelError, match=rf"PTD-593 .*{problem}"):
        compare([np.array(found)], [wanted], where=tmp_path, tolerance=1e-3)


def test_the_worst_output_counts_against_the_largest(tmp_path):
    wanted = [np.array([[0.0, -4.0]]), np.array([[1.0, 0.0]])]
    found = [wanted[0] + 0.0001, wanted[1] + 0.002]
    near = compare(found, wanted, where=tmp_path, tolerance=0.0006)
    assert near["largest_error"] == pytest.approx(0.002)
    assert (near["largest_logit"], near["tolerance"], near["agreement"]) == (4.0, 0.0006, 1.0)


def test_an_exporter_that_fails_is_one_sentence_and_our_errors_stay(tmp_path, capsys):
    def fail(error):
        with exporter("net", "onnx", tmp_path):
            sys.stdout.write("chatter")
            logging.getLogger("some.exporter").warning("chatter")
            raise error

    with pytest.raises(ModelError, match=r"PTD-594 .*net cannot be written as onnx \(KeyError\)"):
        fail(KeyError())
    with pytest.raises(UsageError, match="PTD-001 mine"):
        fail(UsageError("PTD-001", "mine", ""))
    assert capsys.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_an_onnx_file_gives_the_models_numbers_and_says_what_it_is(bundle, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    x, shift = torch.randn(4, 3), torch.randn(4, 1)
    run = write_onnx(
        bundle.model,
        {"x": x, "shift": shift},
        ["sum", "twice"],
        tmp_path,
        told={"digest": bundle.digest},
        dynamic_shapes=({0: torch.export.Dim("rows")},) * 2,
    )
    more, shifts = torch.randn(7, 3), torch.randn(7, 1)
    with torch.inference_mode():
        wanted = bundle.model(more, shifts)
    for found, output in zip(run(more, shifts), wanted, strict=True):
        np.testing.assert_allclose(found, output.numpy(), atol=1e-6)
    file = onnx.load(tmp_path / "model.onnx")
    assert {entry.key: entry.value for entry in file.metadata_props}["pentad.digest"] == bundle.digest
    assert [value.name for value in (*file.graph.input, *file.graph.output)] == ["x", "shift", "sum", "twice"]


def test_the_report_names_format_model_licences_and_origin(bundle, tmp_path):
    write_report(tmp_path, bundle, "onnx", "core", {"largest_error": 0.5})
    report = json.loads((tmp_path / REPORT).read_text())
    assert (report["format"], report["model"], report["largest_error"]) == ("onnx", "doubled", 0.5)
    assert report["licences"] == {"code": "not stated", "weights": "not stated", "data": "not stated"}
    assert report["provenance"]["model"] == bundle.digest


def test_outputs_are_compared_one_by_one_and_none_may_be_lacking(tmp_path):
    output = np.array([[3.0, 1.0], [0.0, 2.0]])
    with pytest.raises(ValueError, match="zip"):
        compare([output], [output, output], where=tmp_path)
    assert compare([output], [output], where=tmp_path)["tolerance"] == 1e-4
