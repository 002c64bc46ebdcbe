"""Sending to archives: real services on 127.0.0.1 that answer as they are told."""

from __future__ import annotations

import http.server
import json
import re
import sys
import threading
from contextlib import contextmanager

import pytest
from command import call, everything_written
from medical.dicom_series import Scan, dataset, write_series

from pentad.core.errors import UsageError
from pentad.medical.pacs import STORED, archive
from pentad.medical.pacs_address import parse_address, read_credentials

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"


@contextmanager
def storage(statuses, kinds=(CT, SEG), **settings):
    """A storage service that gives these statuses in turn, the last for ever; yields its address and what it got."""
    pynetdicom = pytest.importorskip("pynetdicom")
    left, got = list(statuses), []

    def store(event):
        got.append(str(event.dataset.SOPInstanceUID))
        return left.pop(0) if len(left) > 1 else left[0]

    service = pynetdicom.AE("ARCHIVE")
    for name, value in settings.items():
        setattr(service, name, value)
    for kind in kinds:
        service.add_supported_context(kind)
    server = service.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(pynetdicom.evt.EVT_C_STORE, store)])
    try:
        yield f"dicom://ARCHIVE@127.0.0.1:{server.socket.getsockname()[1]}", got
    finally:
        server.shutdown()


@contextmanager
def web(*answers):
    """A web service with these (status, JSON) in turn, the last for ever; yields its address and the headers it got."""
    pytest.importorskip("dicomweb_client")
    left, got = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            got.append(dict(self.headers))
            status, body = left.pop(0) if len(left) > 1 else left[0]
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web", got
    finally:
        server.shutdown()
        server.server_close()


def failed(reason):
    return {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.dcm"
    dataset(Scan(), 0, 1).save_as(path, enforce_file_format=True)
    return path


def deliver(address, *paths, credentials=None):
    return archive(address, credentials, pauses=(0.01, 0.01)).deliver(list(paths), lambda: False)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("dicom://ORTHANC@10.0.0.5:4242", "dicom://ORTHANC@10.0.0.5:4242"),
        ("dicom://Arch-1@pacs.example:104?calling=READER", "dicom://Arch-1@pacs.example:104"),
        ("https://pacs.example/dicom-web/", "https://pacs.example/dicom-web"),
    ],
)
def test_an_address_is_known_by_its_name(text, name):
    assert parse_address(text).name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pacs.example:104",
        "ftp://pacs.example",
        "dicom://ORTHANC@host",
        "dicom://host:104",
        "dicom://ORTHANC@host:99999",
        "dicom://SEVENTEENLETTERS1@host:104",
        "dicom://ORTHANC@host:104?aet=X",
        "dicom://A:hunter2@host:104",
        "https://user:hunter2@pacs.example/dicom-web",
        "https://",
        "https://pacs.example/?key=hunter2",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(text):
    with pytest.raises(UsageError, match="PTD-581") as caught:
        parse_address(text)
    assert "hunter2" not in str(caught.value)


def test_credentials_come_from_a_file_of_ones_own_or_from_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "credentials.json"
    file.write_text('{"user": "reader", "password": "hunter2"}')
    file.chmod(0o644)
    with pytest.raises(UsageError, match=r"PTD-582 .*chmod 600"):
        read_credentials(file)
    file.chmod(0o600)
    monkeypatch.setenv("PENTAD_PACS_TOKEN", "t0ken")
    assert (read_credentials(file).user, read_credentials(file).token) == ("reader", "")
    assert read_credentials(None).token == "t0ken"
    assert "hunter2" not in repr(read_credentials(file))


@pytest.mark.parametrize("content", ["", "[]", '{"user": 1}', '{"name": "hunter2"}', "{}", '{"password": "hunter2"}'])
def test_a_file_without_credentials_is_refused_without_repeating_it(content, tmp_path):
    file = tmp_path / "credentials.json"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(UsageError, match="PTD-582") as caught:
        read_credentials(file)
    assert "hunter2" not in str(caught.value)


def test_credentials_travel_encrypted_or_not_at_all(monkeypatch):
    pytest.importorskip("dicomweb_client")
    monkeypatch.setenv("PENTAD_PACS_TOKEN", "t0ken")
    with pytest.raises(UsageError, match=r"PTD-582 .*https"):
        archive("http://pacs.example/dicom-web")


@pytest.mark.parametrize(
    ("library", "address"), [("pynetdicom", "dicom://A@h:1"), ("dicomweb_client", "https://h/dicom-web")]
)
def test_without_the_extra_one_sentence_names_it(library, address, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=r"PTD-580 .*pentad-medical\[pacs\]"):
        archive(address)


@pytest.mark.parametrize(
    ("statuses", "answer", "times"),
    [
        ([0x0000], STORED, 1),
        ([0x0111], STORED, 1),
        ([0xB007], "stored, with the warning B007H", 1),
        ([0xA700, 0x0000], STORED, 2),
        ([0xC000], "PTD-585 .* refused with the status C000H.*", 1),
        ([0xA700], "PTD-585 .* refused with the status A700H.*", 3),
    ],
)
def test_what_a_storage_service_says_is_told(statuses, answer, times, image):
    with storage(statuses) as (address, got):
        answers = deliver(address, image)
    assert len(got) == times
    assert re.fullmatch(answer, answers["image.dcm"])


def test_a_service_that_takes_no_such_objects_is_told_from_one_that_refuses_us(image):
    with storage([0x0000], kinds=(SEG,)) as (address, _):
        assert "PTD-585" in deliver(address, image)["image.dcm"]
    with storage([0x0000], require_calling_aet=["OTHER"]) as (address, _):
        assert "refuses the association" in deliver(address, image)["image.dcm"]
        assert deliver(f"{address}?calling=OTHER", image) == {"image.dcm": STORED}


def test_an_archive_that_is_not_there_is_soon_left_alone(image):
    with storage([0x0000]) as (address, _):
        pass
    deliver = archive(address, pauses=(0.01,)).deliver
    reasons = [deliver([image], lambda: False)["image.dcm"] for _ in range(4)]
    assert ["no connection" in reason for reason in reasons] == [True, True, True, False]
    assert "PTD-584" in reasons[3]


def test_an_interrupted_run_waits_for_no_archive(image):
    with storage([0x0000]) as (address, got):
        answer = archive(address).deliver([image], lambda: True)["image.dcm"]
    assert "PTD-584" in answer
    assert got == []


@pytest.mark.parametrize(
    ("answers", "told", "times"),
    [
        ([(200, {})], STORED, 1),
        ([(202, {})], "stored, with a warning", 1),
        ([(409, failed(0x0111))], "PTD-585 .*HTTP 409.*", 1),
        ([(202, failed(0x0111))], STORED, 1),
        ([(202, failed(0xA900))], "PTD-585 .*reason A900H.*", 1),
        ([(503, {}), (200, {})], STORED, 2),
        ([(401, {})], "PTD-585 .* the credentials are not accepted.*", 1),
        ([(301, {})], "PTD-58[45] .*", 1),
    ],
)
def test_what_a_web_service_says_is_told(answers, told, times, image):
    with web(*answers) as (address, got):
        reply = deliver(address, image)
    assert len(got) == times
    assert re.fullmatch(told, reply["image.dcm"])


@pytest.mark.slow
def test_credentials_reach_the_archive_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PENTAD_PACS_USER", "reader")
    monkeypatch.setenv("PENTAD_PACS_PASSWORD", "hunter2")
    write_series(tmp_path / "in", Scan(shape=(12, 40, 40)))
    with web((401, {}), (200, {})) as (address, got):
        options = ("--model", "threshold", "--key-file", tmp_path / "key", "--return", address, "--outputs", "seg")
        first = call("-v", "medical", "predict", tmp_path / "in", "-o", tmp_path / "out", "--run", "r", *options)
        again = call("-v", "medical", "send", tmp_path / "out" / "r", "--to", address)
    assert (first.code, again.code) == (3, 0)
    assert {headers["Authorization"] for headers in got} == {"Basic cmVhZGVyOmh1bnRlcjI="}
    said = first.out + first.err + again.out + again.err + everything_written(tmp_path / "out")
    assert not {"hunter2", "cmVhZGVyOmh1bnRlcjI="} & set(re.findall(r"[\w=]+", said))


def test_nothing_is_sent_unless_a_dicom_object_is_asked_for(tmp_path):
    options = ("--model", "threshold", "--return", "dicom://A@127.0.0.1:1", "--outputs", "nifti")
    done = call("medical", "predict", tmp_path, "-o", tmp_path / "out", *options)
    assert done.code == 2
    assert "PTD-583" in done.sentence()
