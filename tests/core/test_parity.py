from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pentad.core import parity
from pentad.core.errors import UsageError

BLOCK = Path(__file__).parents[1] / "reference" / "mamba_block.json"


@pytest.fixture
def changed(tmp_path):
    """Write the Mamba block's figures with one change."""

    def write(change):
        spec = json.loads(BLOCK.read_text())
        change(spec)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(spec))
        return path

    return write


def written(tmp_path, text):
    path = tmp_path / "figures.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_figures_that_hold_are_printed_and_end_in_0(dtype, capsys):
    assert parity.check([BLOCK], dtype) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "file"
    assert any(line.split()[:2] == ["mamba_block.json", "output"] and line.endswith("ok") for line in lines)
    assert lines[-1].endswith("all within tolerance")


@pytest.mark.parametrize("wrong", [0.5, float("nan")])
def test_a_wrong_figure_ends_in_1_and_is_marked(changed, wrong, capsys):
    def disturb(spec):
        spec["expected"]["stages"]["y"]["value"][7] = wrong

    assert parity.check([changed(disturb)]) == 1
    marked = [line for line in capsys.readouterr().out.splitlines() if line.endswith("TOO LARGE")]
    assert [line.split()[1] for line in marked] == ["y"]


def test_an_unknown_operator_names_the_nearest(changed):
    with pytest.raises(UsageError, match=r"PTD-273 .*'mamba_blok' .*did you mean 'mamba_block'"):
        parity.check([changed(lambda spec: spec.update(op="mamba_blok"))])


def test_a_model_of_a_package_that_is_not_there_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"PTD-273 .*checks 'samba'.*install the pentad package that has it"):
        parity.check([written(tmp_path, '{"model": "samba"}')])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "PTD-271 .*not valid JSON"),
        ("[1]", "PTD-271 .*not a JSON object"),
        ("{}", "PTD-274 .*neither 'model' nor 'op'"),
        ('{"op": "mamba_block"}', "PTD-276 .*the entry 'hyperparameters' is missing"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        parity.check([written(tmp_path, text)])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"PTD-271 .*cannot be read"):
        parity.check([tmp_path / "none.json"])


def test_figures_of_another_shape_do_not_fit(changed):
    with pytest.raises(UsageError, match=r"PTD-277 .*shape is \[2, 64, 32\], expected \[2, 64, 31\]"):
        parity.check([changed(lambda spec: spec["expected"]["output"].update(shape=[2, 64, 31]))])


def test_a_precision_with_a_typo_names_the_nearest():
    with pytest.raises(UsageError, match=r"'float46' is no precision.*'float64'"):
        parity.check([BLOCK], "float46")


def test_nothing_is_computed_if_one_file_of_several_is_bad(tmp_path, capsys):
    with pytest.raises(UsageError):
        parity.check([BLOCK, written(tmp_path, "{}")])
    assert capsys.readouterr().out == ""


def test_a_check_that_cannot_be_imported_names_what_to_install():
    point = EntryPoint("u_mamba", "pentad.no_such_module:u_mamba", parity.GROUP)
    with pytest.raises(UsageError, match=r"PTD-275 .*no_such_module.*install the package again"):
        parity._load(point, BLOCK)
