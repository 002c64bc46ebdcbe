"""Layouts of the known data sets, their lists and labels, and the sentence for what does not fit."""

import json

import numpy as np
import pytest
import rasterio
from remote_sensing.rasters import picture, write_raster

from pentad.core.cases import read_cases
from pentad.core.errors import CaseError, NoInputError, UsageError
from pentad.core.statement import read_statement
from pentad.remote_sensing.ingest import PrepareConfig, prepare, read_label
from pentad.remote_sensing.layouts import find_pairs
from pentad.remote_sensing.statement import Statement


def png(path, image):
    return write_raster(path, image, 0, driver="PNG", transform=rasterio.Affine.identity())


def label(values=(0, 255), shape=(40, 50)):
    return np.resize(np.array(values, "uint8"), shape)[None]


def write_sides(root, sides=("A", "B", "label"), names=("one", "two")):
    for number, name in enumerate(names):
        png(root / sides[0] / f"{name}.png", picture(seed=number))
        png(root / sides[1] / f"{name}.png", picture(seed=number + 9))
        png(root / sides[2] / f"{name}.png", label())


def reasons(out):
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "sides", [("A", "B", "label"), ("time1", "time2", "label"), ("before", "after", "label"), ("T1", "T2", "GT")]
)
def test_pairs_stand_in_two_folders_below_their_splits(tmp_path, sides):
    write_sides(tmp_path / "train", sides, ["one", "two"])
    write_sides(tmp_path / "test", sides, ["three"])
    pairs, rejected = find_pairs(tmp_path)
    assert ([(pair.id, pair.split) for pair in pairs], rejected) == (
        [("one", "train"), ("two", "train"), ("three", "test")],
        [],
    )


@pytest.mark.parametrize("line", ["two.png", "A/two.png B/two.png label/two.png", "A/two.png,B/two.png"])
def test_a_list_gives_the_split_and_leaves_out_what_it_does_not_name(tmp_path, line):
    write_sides(tmp_path)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "val.txt").write_text(line + "\n")
    pairs, rejected = find_pairs(tmp_path)
    assert ([(pair.id, pair.split) for pair in pairs], rejected) == ([("two", "val")], [])


def test_swapped_dates_in_a_list_are_one_sentence(tmp_path):
    write_sides(tmp_path)
    (tmp_path / "train.txt").write_text("A/one.png B/one.png\nB/two.png A/two.png\n")
    _, rejected = find_pairs(tmp_path)
    assert [(item.code, item.where) for item in rejected] == [("PTD-857", "train.txt, line 2")]


def test_swapped_dates_in_the_table_of_scenes_are_one_sentence(tmp_path):
    write_sides(tmp_path)
    rows = ["id,before,after,group", "one,2019-01-01,2020-01-01,a", "two,2021-01-01,2020-01-01,a"]
    (tmp_path / "scenes.csv").write_text("\n".join(rows))
    pairs, rejected = find_pairs(tmp_path)
    assert [(pair.id, pair.dates, pair.group) for pair in pairs] == [("one", ("2019-01-01", "2020-01-01"), "a")]
    assert [item.code for item in rejected] == ["PTD-857"]


def test_a_list_that_names_what_is_not_there_is_one_sentence(tmp_path):
    write_sides(tmp_path)
    (tmp_path / "train.txt").write_text("one.png\nten.png\n")
    assert [item.code for item in find_pairs(tmp_path)[1]] == ["PTD-856"]


def test_a_missing_second_date_is_one_sentence(tmp_path):
    write_sides(tmp_path)
    (tmp_path / "B" / "two.png").unlink()
    pairs, rejected = find_pairs(tmp_path)
    assert ([pair.id for pair in pairs], [item.code for item in rejected]) == (["one"], ["PTD-855"])


def test_two_images_of_one_name_are_told_and_not_passed_over(tmp_path):
    write_sides(tmp_path, names=("one",))
    png(tmp_path / "A" / "one.tif", picture(seed=3))
    (pair,), (told,) = find_pairs(tmp_path)
    assert (pair.before.name, told.where, told.code) == ("one.tif", "A/one.png", "PTD-878")


def test_pairs_of_one_name_in_two_splits_get_two_ids(tmp_path):
    write_sides(tmp_path / "train", names=("one", "one-2"))
    write_sides(tmp_path / "val", names=("one",))
    assert [pair.id for pair in find_pairs(tmp_path)[0]] == ["one", "one-2", "one-3"]


def test_halves_of_xbd_pairs_are_told(tmp_path):
    png(tmp_path / "images" / "fire_00000001_pre_disaster.png", picture())
    png(tmp_path / "images" / "fire_00000002_post_disaster.png", picture())
    pairs, told = find_pairs(tmp_path)
    assert (pairs, [one.code for one in told]) == ([], ["PTD-855", "PTD-855"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"name,before\none,2020-01-01\n", "KeyError"), ("id\né\n".encode("latin-1"), "UnicodeDecodeError")],
)
def test_a_table_of_scenes_that_cannot_be_read_is_one_sentence(tmp_path, content, message):
    write_sides(tmp_path)
    (tmp_path / "scenes.csv").write_bytes(content)
    with pytest.raises(UsageError, match=f"PTD-879 .*scenes.csv: .*{message}"):
        find_pairs(tmp_path)


def test_a_date_of_another_form_is_no_swapped_one(tmp_path):
    write_sides(tmp_path)
    (tmp_path / "scenes.csv").write_bytes(b"\xef\xbb\xbfid,before,after\r\none,31.01.2020,01.02.2021\r\ntwo\r\n")
    (pair,), (told,) = find_pairs(tmp_path)
    assert (pair.id, pair.dates, told.code) == ("two", ("", ""), "PTD-875")
    assert told.reason == "'31.01.2020' of one is no date; write YYYY-MM-DD."


def test_a_list_in_another_encoding_names_what_is_not_there(tmp_path):
    write_sides(tmp_path)
    (tmp_path / "train.txt").write_bytes("\ufeffone.png\r\n".encode() + "é.png\r\n".encode("latin-1"))
    (pair,), (told,) = find_pairs(tmp_path)
    assert (pair.id, pair.split, told.code, told.where) == ("one", "train", "PTD-856", "train.txt, line 2")


def test_a_label_of_another_size_is_refused_before_it_is_read(tmp_path):
    vast = {"driver": "GTiff", "count": 1, "height": 10**6, "width": 10**6, "dtype": "uint8", "sparse_ok": True}
    with rasterio.open(tmp_path / "a.tif", "w", tiled=True, blockxsize=65536, blockysize=65536, **vast):
        pass
    with pytest.raises(CaseError, match=r"PTD-860 a.tif: the label has \(1000000, 1000000\)"):
        read_label(tmp_path / "a.tif", "plain", "label", (40, 50))


def test_xbd_pairs_are_known_by_their_names_and_grouped_by_disaster(tmp_path):
    for moment in ("pre", "post"):
        png(tmp_path / "images" / f"flood_0001_{moment}_disaster.png", picture())
    png(tmp_path / "targets" / "flood_0001_post_disaster_target.png", label((0, 1, 2, 3, 4)))
    pair = find_pairs(tmp_path)[0][0]
    assert (pair.id, pair.group, pair.coding) == ("flood_0001", "flood", "xbd")
    assert read_label(pair.labels["label"], pair.coding)[0, :5].tolist() == [0, 0, 1, 1, 1]
    assert read_label(pair.labels["damage"], pair.coding, "damage")[0, :5].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("line", ["flood_0001", "flood_0001_pre_disaster.png flood_0001_post_disaster.png"])
def test_lists_split_xbd_and_name_what_is_not_there(tmp_path, line):
    for number in (1, 2):
        for moment in ("pre", "post"):
            png(tmp_path / "images" / f"flood_000{number}_{moment}_disaster.png", picture())
            png(tmp_path / "masks" / f"flood_000{number}_{moment}_disaster.png", label((0, 1)))
    (tmp_path / "test.txt").write_text(f"{line}\nfire_0007\n")
    pairs, rejected = find_pairs(tmp_path)
    assert [(pair.id, pair.split, pair.group, len(pair.labels)) for pair in pairs] == [("flood_0001", "test", "", 2)]
    assert [(item.code, item.where) for item in rejected] == [("PTD-856", "test.txt, line 2")]


def test_the_folders_of_xbd_are_its_splits(tmp_path):
    for number, place in enumerate(("train", "tier3", "hold", "test")):
        for moment in ("pre", "post"):
            png(tmp_path / place / "images" / f"flood_000{number}_{moment}_disaster.png", picture())
    pairs, _ = find_pairs(tmp_path)
    assert {pair.id[-1]: pair.split for pair in pairs} == {"0": "train", "1": "train", "2": "val", "3": "test"}


def test_land_covers_stand_beside_the_change_as_the_published_code_wants_them(tmp_path):
    write_sides(tmp_path, ("T1", "T2", "GT_CD"), ["one.v2"])
    for role in ("GT_T1", "GT_T2"):
        png(tmp_path / role / "one.v2.png", label((0, 6)))
    (tmp_path / "train.txt").write_text("one.v2\n")  # the published lists of training leave the suffix out
    (pair,) = find_pairs(tmp_path)[0]
    assert (pair.split, set(pair.labels), pair.coding) == ("train", {"label", "cover_before", "cover_after"}, "plain")
    assert pair.labels["cover_after"].parent.name == "GT_T2"


def test_second_tells_change_by_colours(tmp_path):
    colours = np.full((3, 4, 4), 255, "uint8")
    colours[:, 1, 2] = 128, 0, 0
    path = png(tmp_path / "label1" / "one.png", colours)
    assert np.argwhere(read_label(path, "second")).tolist() == [[1, 2]]
    assert read_label(path, "second", "cover_before")[1, 2] == 5


@pytest.mark.parametrize(("values", "coding"), [((0, 1, 7), "plain"), ((0, 1, 255), "plain"), ((0, 9), "xbd")])
def test_an_unknown_class_is_one_sentence(tmp_path, values, coding):
    path = png(tmp_path / "label.png", label(values))
    with pytest.raises(CaseError, match="unknown class"):
        read_label(path, coding)


@pytest.mark.parametrize("role", ["cover_before", "damage"])
def test_an_unknown_land_cover_or_grade_is_one_sentence(tmp_path, role):
    path = png(tmp_path / "label.png", label((0, 7)))
    with pytest.raises(CaseError, match=r"PTD-862.*unknown class 7"):
        read_label(path, "plain", role)


def test_each_task_prepares_its_own_labels_and_names_its_classes(tmp_path):
    write_sides(tmp_path / "raw")
    for role in ("cover_before", "cover_after", "damage"):
        for name in ("one", "two"):
            png(tmp_path / "raw" / role / f"{name}.png", label((0, 3)))
    for task, roles, names in (("scd", {"cover_before", "cover_after"}, 6), ("bda", {"damage"}, 4)):
        prepare(tmp_path / "raw", tmp_path / task, PrepareConfig(task=task))
        (case, _) = read_cases(tmp_path / task / "cases.jsonl")
        assert set(case.files) == {"before", "after", *roles}
        about = read_statement(tmp_path / task / "cases.jsonl", Statement)
        assert (about.task, [len(one) for one in about.classes]) == (task, [names] * len(roles))


def test_a_task_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"PTD-876.*did you mean 'scd'"):
        PrepareConfig(task="sdc")


def test_an_unknown_colour_is_one_sentence(tmp_path):
    with pytest.raises(CaseError, match="PTD-862"):
        read_label(png(tmp_path / "label.png", picture()), "second")


def test_nodata_of_a_label_is_not_known(tmp_path):
    path = write_raster(tmp_path / "label.tif", label((0, 1, 255)), nodata=255)
    assert set(np.unique(read_label(path, "plain"))) == {0, 1, 255}


def test_a_folder_without_pairs_is_refused(tmp_path):
    with pytest.raises(NoInputError, match="PTD-854"):
        find_pairs(tmp_path)


def test_prepare_writes_a_table_with_labels_of_one_coding(tmp_path):
    write_sides(tmp_path / "raw")
    done = prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    cases = read_cases(tmp_path / "out" / "cases.jsonl")
    assert (done.refused, [case.id for case in cases]) == (0, ["one", "two"])
    with rasterio.open(cases[0].files["label"]) as source:
        assert (set(np.unique(source.read())), source.nodata) == ({0, 1}, 255)


def test_a_bad_pair_is_rejected_and_the_others_go_on(tmp_path):
    write_sides(tmp_path / "raw", names=("one", "two", "three"))
    png(tmp_path / "raw" / "B" / "one.png", picture(rows=39))
    png(tmp_path / "raw" / "label" / "two.png", label(shape=(8, 8)))
    done = prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    assert (done.refused, [item["code"] for item in reasons(tmp_path / "out")]) == (2, ["PTD-851", "PTD-860"])


def test_nothing_is_overwritten_without_being_told(tmp_path):
    write_sides(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    with pytest.raises(UsageError, match="PTD-858"):
        prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())


def test_a_dry_run_writes_nothing(tmp_path):
    write_sides(tmp_path / "raw")
    assert prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig(), dry_run=True).text.startswith("2 pairs")
    assert not (tmp_path / "out").exists()


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["levir_cd_samples", "dsifn_cd_samples"])
def test_real_pairs_in_levirs_layout_are_all_taken(tmp_path, folder, real_data):
    done = prepare(real_data / "remote_sensing" / folder, tmp_path, PrepareConfig())
    assert (done.text[:8], done.refused) == ("7 pairs,", 0)


@pytest.mark.real_data
def test_the_awkward_real_pair_is_refused_in_one_sentence(tmp_path, real_data):
    with pytest.raises(NoInputError, match="PTD-859"):
        prepare(real_data / "remote_sensing" / "awkward_pair", tmp_path, PrepareConfig())
    assert [item["code"] for item in reasons(tmp_path)] == ["PTD-851"]
