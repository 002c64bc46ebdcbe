import json

import pytest

from pentad.core.errors import UsageError
from pentad.core.results import write_row

METRICS = {
    "data": "synthetic",
    "headline": "dice, hd95_mm",
    "models": {
        "a": {
            "dice": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 7},
            "hd95_mm": {"value": None, "low": None, "high": None, "n": 0},
        },
        "b": {
            "dice": {"value": 0.5, "low": None, "high": None, "n": 1},
            "hd95_mm": {"value": 12.0, "low": 3.0, "high": 20.0, "n": 1},
        },
    },
}


def test_a_row_a_model_with_intervals_and_the_number_of_cases(tmp_path):
    folder = tmp_path / "liver_seg"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    write_row(folder, tmp_path / "row.md")
    assert (tmp_path / "row.md").read_text().splitlines() == [
        "| pipeline | data | model | n | dice | hd95 mm |",
        "|---|---|---|---|---|---|",
        "| liver_seg | synthetic | a | 7 | 0.900 [0.800, 0.950] | — |",
        "| liver_seg | synthetic | b | 1 | 0.500 | 12.0 [3.0, 20.0] |",
    ]


@pytest.mark.parametrize("content", [None, "{", "{}", '{"models": {"a": {}}, "headline": "x", "data": ""}'])
def test_a_pipeline_that_has_not_run_says_what_to_run(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UsageError, match=r"PTD-223 .*run dvc repro"):
        write_row(tmp_path, tmp_path / "row.md")
