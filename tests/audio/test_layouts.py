from __future__ import annotations

import pytest

from pentad.audio.layouts import list_entries
from pentad.core.errors import UsageError


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def listed(root, layout="auto"):
    return {
        entry.file.name: (entry.labels, entry.split or entry.fold, entry.group)
        for entry in list_entries(root, layout).entries
    }


def test_speech_commands_keep_their_lists_and_speakers(tmp_path):
    names = {f"{word}/{who}_nohash_0.wav": "" for word in ("yes", "no") for who in ("a", "b", "c")}
    lists = {"validation_list.txt": "yes/b_nohash_0.wav\n", "testing_list.txt": "yes/c_nohash_0.wav\n"}
    root = write(tmp_path, {**names, **lists, "_background_noise_/hum.wav": ""})
    found = [(e.file.parent.name, e.split, e.group) for e in list_entries(root).entries]
    assert ("yes", "val", "b") in found
    assert ("yes", "test", "c") in found
    assert ("no", "train", "c") in found
    assert len(found) == 6


def test_fsd50k_keeps_its_splits_and_several_labels(tmp_path):
    truth = "FSD50K.ground_truth/"
    tables = {
        f"{truth}dev.csv": 'fname,labels,mids,split\n1,"Bark,Dog","/m/1,/m/2",train\n2,Rain,/m/3,val\n',
        f"{truth}eval.csv": "fname,labels,mids\n3,Rain,/m/3\n",
    }
    root = write(tmp_path, {**tables, "FSD50K.dev_audio/1.wav": "", "FSD50K.dev_audio/2.wav": ""})
    found = listed(root)
    assert found["1.wav"] == (("Bark", "Dog"), "train", "")
    assert (found["2.wav"][1], found["3.wav"][1]) == ("val", "test")


def test_audioset_finds_files_by_id_and_names_classes(tmp_path):
    files = {
        "eval_segments.csv": '# YTID, start_seconds, end_seconds, positive_labels\nabc, 30.000, 40.000, "/m/1"\n',
        "class_labels_indices.csv": "index,mid,display_name\n0,/m/1,Speech\n",
        "audio/abc_30.wav": "",
    }
    assert listed(write(tmp_path, files)) == {"abc_30.wav": (("Speech",), "test", "abc")}


def test_a_table_of_tags_may_state_fold_and_group(tmp_path):
    root = write(tmp_path, {"tags.csv": "filename,labels,fold,group\na.wav,x;y,2,g\n"})
    assert listed(root) == {"a.wav": (("x", "y"), 2, "g")}


def test_strong_labels_report_a_bad_line_and_keep_the_rest(tmp_path):
    lines = "filename\tonset\toffset\tevent_label\na.wav\t0.5\t1.0\tdog\nb.wav\t2.0\t1.0\tdog\n"
    listing = list_entries(write(tmp_path, {"strong.tsv": lines}))
    assert [entry.events for entry in listing.entries] == [((0.5, 1.0, "dog"),)]
    assert [problem.where for problem in listing.problems] == ["strong.tsv, line 3"]


def test_lists_of_another_layout_are_refused_with_a_sentence(tmp_path):
    root = write(tmp_path, {"tags.csv": "name,tag\na.wav,x\n"})
    with pytest.raises(UsageError, match=r"PTD-723 .*its lists are not those of the layout 'tags'"):
        list_entries(root)


def test_an_unknown_layout_is_named_with_its_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"PTD-722 'folder' is no layout \(did you mean 'folders'\?\)"):
        list_entries(tmp_path, "folder")


def test_audioset_without_its_names_keeps_identifiers_and_reports_a_short_line(tmp_path):
    files = {"eval_segments.csv": '# YTID\nabc, 0.000, 10.000, "/m/1"\nabd, 0.000, 10.000\n', "abc_0.wav": ""}
    listing = list_entries(write(tmp_path, files))
    assert [entry.labels for entry in listing.entries] == [("/m/1",)]
    assert len(listing.problems) == 1
