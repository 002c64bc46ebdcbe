from __future__ import annotations

import itertools

import numpy as np
import pydicom
import pytest
from medical.dicom_series import Scan, index_folder, write_multiframe, write_series

from pentad.core.errors import CaseError
from pentad.medical.dicom import read_series
from pentad.medical.seg import LIVER_SEGMENTS, Algorithm, read_back, segments_for, write_seg
from pentad.medical.volumes import Volume, canonical, read_label, restore, write_nifti

MODEL = Algorithm("u_mamba_bot", "1.2.0", "ab" * 32, "cd" * 32)
AXES = [np.array(axis, dtype=float) * sign for axis in np.eye(3) for sign in (1, -1)]
DIRECTIONS = [(tuple(row), tuple(column)) for row, column in itertools.permutations(AXES, 2) if row @ column == 0]


def indexed(folder):
    return index_folder(folder)[0][0]


@pytest.fixture
def series(tmp_path):
    write_series(tmp_path / "study", Scan(shape=(6, 16, 12)))
    return indexed(tmp_path / "study")


@pytest.fixture
def label(series):
    array = np.zeros(series.shape, np.uint8)
    array[1:4, 3:11, 2:9] = 1
    array[2, 5:7, 4:6] = 2
    return array


def write(path, label, series, model=MODEL):
    write_seg(path, label, series, LIVER_SEGMENTS, model)
    return pydicom.dcmread(path)


@pytest.mark.parametrize(("row", "column"), DIRECTIONS)
def test_a_finding_keeps_its_place_through_canonical_seg_and_nifti(row, column, tmp_path):
    write_series(tmp_path / "study", Scan(shape=(5, 4, 6), row=row, column=column))
    series = indexed(tmp_path / "study")
    volume = read_series(series)
    upright, how = canonical(volume)
    found = restore((upright.array > np.median(upright.array)).astype(np.uint8), how)
    write_seg(tmp_path / "seg.dcm", found, series, LIVER_SEGMENTS, MODEL)
    write_nifti(tmp_path / "seg.nii.gz", Volume(found, volume.affine))
    expected = (volume.array > np.median(volume.array)).astype(np.uint8)
    assert np.array_equal(read_back(tmp_path / "seg.dcm", series), expected)
    again = read_label(tmp_path / "seg.nii.gz")
    assert np.array_equal(again.array, expected)
    assert np.allclose(again.affine, volume.affine, atol=1e-4)


def test_frames_lie_at_the_positions_of_their_images(series, label, tmp_path):
    seg = write(tmp_path / "seg.dcm", label, series)
    for group in seg.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        plane = next(plane for plane in series.planes if plane.instance == source)
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose([float(part) for part in position], plane.position, atol=1e-4)


def test_codes_colours_and_tracking_are_written(series, label, tmp_path):
    liver, lesion = write(tmp_path / "seg.dcm", label, series).SegmentSequence
    assert [item.SegmentedPropertyTypeCodeSequence[0].CodeValue for item in (liver, lesion)] == ["10200004", "4147007"]
    assert lesion.AnatomicRegionSequence[0].CodeValue == "10200004"
    assert liver.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("u_mamba_bot", "1.2.0")
    assert MODEL.model in str(algorithm.AlgorithmParameters)
    assert liver.TrackingUID != lesion.TrackingUID
    assert liver.RecommendedDisplayCIELabValue != lesion.RecommendedDisplayCIELabValue


def test_empty_frames_are_left_out(series, label, tmp_path):
    seg = write(tmp_path / "seg.dcm", label, series)
    assert seg.SegmentationType == "BINARY"
    assert int(seg.NumberOfFrames) == 3 + 1  # liver in three slices, lesion in one


def test_an_empty_map_is_written_and_read_back(series, tmp_path):
    write(tmp_path / "seg.dcm", np.zeros(series.shape, np.uint8), series)
    assert not read_back(tmp_path / "seg.dcm", series).any()


def test_the_same_result_has_the_same_bytes(series, label, tmp_path):
    write(tmp_path / "one.dcm", label, series)
    write(tmp_path / "two.dcm", label, series)
    assert (tmp_path / "one.dcm").read_bytes() == (tmp_path / "two.dcm").read_bytes()


def test_another_model_or_configuration_gives_another_object(series, label, tmp_path):
    others = [
        MODEL,
        Algorithm("u_mamba_bot", "1.2.0", "ef" * 32, "cd" * 32),
        Algorithm("u_mamba_bot", "1.2.0", "ab" * 32, ""),
    ]
    written = [write(tmp_path / f"{n}.dcm", label, series, model) for n, model in enumerate(others)]
    assert len({seg.SOPInstanceUID for seg in written}) == 3
    assert len({seg.SeriesInstanceUID for seg in written}) == 3


def test_the_object_belongs_to_the_study_of_its_images(series, label, tmp_path):
    seg = write(tmp_path / "seg.dcm", label, series)
    assert seg.StudyInstanceUID == series.study_uid
    assert seg.FrameOfReferenceUID == series.frame_of_reference
    assert seg.SeriesInstanceUID != series.series_uid


def test_a_multi_frame_source_is_segmented(tmp_path, label):
    write_multiframe(tmp_path / "enhanced" / "a.dcm", Scan(shape=(6, 16, 12)))
    series = indexed(tmp_path / "enhanced")
    write_seg(tmp_path / "seg.dcm", label, series, LIVER_SEGMENTS, MODEL)
    assert np.array_equal(read_back(tmp_path / "seg.dcm", series), label)


def test_images_with_blanked_identifiers_are_segmented(tmp_path, label):
    blank = Scan(shape=(6, 16, 12)).but(
        StudyInstanceUID="", SeriesInstanceUID="", SOPInstanceUID="", SOPClassUID="", PatientID="", PatientName=""
    )
    write_series(tmp_path / "blank", blank.but(PatientBirthDate=None, StudyDate=None, AccessionNumber=None))
    series = indexed(tmp_path / "blank")
    write_seg(tmp_path / "seg.dcm", label, series, LIVER_SEGMENTS, MODEL)
    assert np.array_equal(read_back(tmp_path / "seg.dcm", series), label)


def test_a_label_of_another_shape_is_refused(series, label, tmp_path):
    with pytest.raises(CaseError, match="PTD-356"):
        write(tmp_path / "seg.dcm", label[:-1], series)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_value_without_a_segment_is_refused(series, label, tmp_path):
    with pytest.raises(CaseError, match="PTD-355"):
        write(tmp_path / "seg.dcm", label * 2, series)


def test_a_segmentation_of_another_series_is_not_read(series, label, tmp_path):
    write(tmp_path / "seg.dcm", label, series)
    write_series(tmp_path / "other", Scan(shape=(6, 16, 12), study="other"))
    with pytest.raises(CaseError, match="PTD-367"):
        read_back(tmp_path / "seg.dcm", indexed(tmp_path / "other"))


def test_an_image_is_no_segmentation(series):
    with pytest.raises(CaseError, match="PTD-367"):
        read_back(series.files[0], series)


def test_classes_become_segments_by_name():
    assert [item.value for item in segments_for({"lesion": 5, "liver": 1})] == [1, 5]
    with pytest.raises(CaseError, match=r"PTD-365 .*'spleen'"):
        segments_for({"spleen": 1})


@pytest.mark.real_data
def test_a_real_series_is_segmented_voxel_for_voxel(real_data, tmp_path):
    series = indexed(real_data / "medical" / "totalseg_example" / "dicom_series")
    label = np.zeros(series.shape, np.uint8)
    label[4:9, 100:300, 200:260] = 1
    label[6, 150:170, 220:230] = 2
    write_seg(tmp_path / "seg.dcm", label, series, LIVER_SEGMENTS, MODEL)
    assert np.array_equal(read_back(tmp_path / "seg.dcm", series), label)


def test_a_sex_in_the_hospitals_own_words_does_not_stop_the_segmentation(tmp_path, label):
    write_series(tmp_path / "study", Scan(shape=(6, 16, 12)).but(PatientSex="W"))
    seg = write(tmp_path / "seg.dcm", label, indexed(tmp_path / "study"))
    assert not seg.PatientSex
