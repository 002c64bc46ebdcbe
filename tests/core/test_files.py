import subprocess
import sys

import pytest

from pentad.core.files import atomic, digest_bytes, digest_file, digest_files, digest_json, write_json, write_text

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def stop_half_way():
        with atomic(target) as temporary:
            temporary.write_text("half")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        stop_half_way()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_leaves_no_half_file(tmp_path):
    program = (
        "import resource, pathlib; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from pentad.core.files import write_text; write_text(pathlib.Path('big.txt'), 'x' * 100000)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert "OSError" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_file_keeps_the_suffixes(tmp_path):
    with atomic(tmp_path / "image.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"")


def test_a_new_file_has_the_usual_rights(tmp_path):
    write_text(tmp_path / "a", "")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})


def test_digests_are_sha256_and_ignore_key_and_file_order(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert digest_bytes(b"") == EMPTY
    assert digest_file(tmp_path / "a") == digest_bytes(b"1")
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    assert digest_files([tmp_path / "a", tmp_path / "b"]) == digest_files([tmp_path / "b", tmp_path / "a"])


def test_texts_stay_readable_in_files_and_digests(tmp_path):
    write_json(tmp_path / "a.json", {"ort": "Köln", "n": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "ort": "Köln",\n  "n": 1\n}\n'
    assert digest_json({"n": 1, "ort": "Köln"}) == digest_bytes('{"n":1,"ort":"Köln"}'.encode())
    assert digest_files([tmp_path / "a.json"]) == digest_bytes(digest_file(tmp_path / "a.json").encode())
