"""From an archive and back: an Orthanc holds the studies, gets the results, and holds them once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from command import call
from medical.dicom_series import Scan, index_folder, uid, write_series
from medical.orthanc import TITLE, Orthanc, orthanc
from pydicom.dataset import Dataset

from pentad.core.batch.journal import read_journal
from pentad.medical.seg import read_back

pynetdicom = pytest.importorskip("pynetdicom")
dicomweb_client = pytest.importorskip("dicomweb_client")

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY_ROOT_FIND, STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def body(study: str) -> Scan:
    """A scan in which the baseline finds a liver."""
    hu = np.full((40, 40), -1000)
    hu[4:36, 4:36], hu[10:28, 8:24] = 40, 110
    return Scan(study=study, shape=(12, 40, 40)).but(PixelData=(hu + 1024).astype("<i2").tobytes())


def store(server: Orthanc, files: list[Path]) -> None:
    link = pynetdicom.AE().associate("127.0.0.1", server.dicom_port, [pynetdicom.build_context(CT)], ae_title=TITLE)
    assert link.is_established
    assert {link.send_c_store(str(path)).Status for path in files} == {0}
    link.release()


def find(server: Orthanc, modality: str) -> list[Dataset]:
    """Series of a modality, by C-FIND."""
    query = Dataset()
    query.QueryRetrieveLevel, query.Modality = "SERIES", modality
    query.StudyInstanceUID = query.SeriesInstanceUID = ""
    service = pynetdicom.AE()
    service.add_requested_context(STUDY_ROOT_FIND)
    link = service.associate("127.0.0.1", server.dicom_port, ae_title=TITLE)
    found = [item for _, item in link.send_c_find(query, STUDY_ROOT_FIND) if item is not None]
    link.release()
    return found


def get(server: Orthanc, series: Dataset, folder: Path) -> None:
    """Fetch a series by C-GET."""
    folder.mkdir(parents=True)

    def keep(event):
        image = event.dataset
        image.file_meta = event.file_meta
        image.save_as(folder / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)
        return 0x0000

    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = series.StudyInstanceUID, series.SeriesInstanceUID
    service = pynetdicom.AE()
    service.add_requested_context(STUDY_ROOT_GET)
    service.add_requested_context(CT)
    roles = [pynetdicom.build_role(CT, scp_role=True)]
    handlers = [(pynetdicom.evt.EVT_C_STORE, keep)]
    link = service.associate("127.0.0.1", server.dicom_port, ae_title=TITLE, ext_neg=roles, evt_handlers=handlers)
    assert link.is_established
    assert [status.Status for status, _ in link.send_c_get(query, STUDY_ROOT_GET)][-1] == 0
    link.release()


def predict(inputs: Path, out: Path, address: str) -> object:
    key = out.parent / "key"
    options = ("--model", "threshold", "--key-file", key, "--run", "r", "--return", address)
    return call("medical", "predict", inputs, "-o", out, *options)


@pytest.mark.slow
def test_studies_fetched_from_an_archive_get_their_results_back_and_once(server, tmp_path):
    for name in "ab":
        store(server, write_series(tmp_path / "scanner" / name, body(name)))
    for number, series in enumerate(find(server, "CT")):
        get(server, series, tmp_path / "fetched" / str(number))
    done = predict(tmp_path / "fetched", tmp_path / "out", server.dicom)
    assert done.code == 0, done.err
    records = read_journal(tmp_path / "out" / "r" / "journal.jsonl").values()
    sent = [record.sent[server.dicom] for record in records]
    assert sent == [dict.fromkeys(answers, "stored") for answers in sent]
    assert len(sent) == 2
    assert all(list(answers) == ["seg.dcm", "sr.dcm"] for answers in sent)
    for modality in ("SEG", "SR"):
        assert {item.StudyInstanceUID for item in find(server, modality)} == {uid("a"), uid("b")}
    before = server.ask("/statistics")["CountInstances"]
    # The same cases again, as another run and by the other way.
    assert predict(tmp_path / "fetched", tmp_path / "again", server.dicom).code == 0
    assert call("medical", "send", tmp_path / "again" / "r", "--to", server.web).code == 0
    assert server.ask("/statistics")["CountInstances"] == before


@pytest.mark.slow
def test_studies_fetched_by_the_web_get_their_results_back(server, tmp_path):
    files = write_series(tmp_path / "scanner", body("web"))
    client = dicomweb_client.DICOMwebClient(server.web)
    client.store_instances([pydicom.dcmread(path) for path in files])
    found = client.search_for_series(search_filters={"StudyInstanceUID": uid("web"), "Modality": "CT"})
    (tmp_path / "fetched").mkdir()
    for series in map(Dataset.from_json, found):
        images = client.retrieve_series(series.StudyInstanceUID, series.SeriesInstanceUID)
        for image in images:
            image.save_as(tmp_path / "fetched" / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)
    assert len(list((tmp_path / "fetched").iterdir())) == 12
    done = predict(tmp_path / "fetched", tmp_path / "out", server.web)
    assert done.code == 0, done.err
    filters = {"StudyInstanceUID": uid("web"), "Modality": "SEG"}
    (stored,) = map(Dataset.from_json, client.search_for_series(search_filters=filters))
    (back,) = client.retrieve_series(stored.StudyInstanceUID, stored.SeriesInstanceUID)
    back.save_as(tmp_path / "back.dcm", enforce_file_format=True)
    (sent,) = (tmp_path / "out" / "r" / "cases").glob("*/seg.dcm")
    series = index_folder(tmp_path / "scanner")[0][0]
    label = read_back(sent, series)
    assert label.any()
    assert np.array_equal(read_back(tmp_path / "back.dcm", series), label)


@pytest.mark.slow
def test_an_archive_that_was_away_gets_its_results_on_resuming(server, tmp_path):
    write_series(tmp_path / "in", body("away"))
    nowhere = "dicom://NOBODY@127.0.0.1:1"
    first = predict(tmp_path / "in", tmp_path / "out", nowhere)
    assert first.code == 3
    assert "PTD-584" in first.err
    options = ("--model", "threshold", "--key-file", tmp_path / "key", "--resume", "r", "--return", server.dicom)
    again = call("medical", "predict", tmp_path / "in", "-o", tmp_path / "out", *options)
    assert again.code == 0, again.err
    assert uid("away") in {item.StudyInstanceUID for item in find(server, "SEG")}
