"""Pixel data decoded to stored values, and stored values turned into Hounsfield units.

Decoders: pydicom with pylibjpeg-openjpeg, pylibjpeg-rle and pyjpegls; for JPEG lossless, extended and progressive
(12 bits), which those lack, the GDCM that SimpleITK carries.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from pentad.core.errors import CaseError
from pentad.medical.dicom_header import discreet

AIR_HU = -1024.0
"""What padding outside the reconstructed circle becomes."""

_PADDING_BELOW_HU, _PADDING_ABOVE_HU = -900.0, 3071.0
# Spectral selection (53) and full progression (55) are retired and have no name in pydicom.
_GDCM_SYNTAXES = {
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    UID("1.2.840.10008.1.2.4.53"),
    UID("1.2.840.10008.1.2.4.55"),
}
_PIXEL_MODULE = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "NumberOfFrames",
    "PixelData",
)


def read_pixels(path: Path, name: str = "") -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return stored values (frames, rows, columns) of one file, and where they are padding.

    Args:
        path: A DICOM image with one sample a pixel.
        name: What errors call it; the file's name by default.

    Raises:
        CaseError: It cannot be read or decoded (PTD-343).
    """
    name = name or path.name
    try:
        with discreet():
            return _decoded(path, name)
    except CaseError:
        raise
    except Exception as error:
        raise _undecodable(error, name) from None


def _decoded(path: Path, name: str) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    dataset = pydicom.dcmread(path, force=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID") or pydicom.uid.ImplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = syntax
    stored = _by_gdcm(dataset) if syntax in _GDCM_SYNTAXES else dataset.pixel_array
    frames = int(dataset.get("NumberOfFrames") or 1)
    shape = (frames, int(dataset.Rows), int(dataset.Columns))
    if stored.size != np.prod(shape):
        problem = f"the pixel data decode to {stored.size} values where {' x '.join(map(str, shape))} are announced"
        raise CaseError("PTD-343", problem, "fetch the file again", name)
    stored = stored.reshape(shape)
    # Padding is compared before unused bits go: writers give it in all 16 bits even where 12 count.
    padding = _padding(stored, dataset)
    return (stored if syntax.is_compressed else _used_bits(stored, dataset)), padding


def _by_gdcm(dataset: Dataset) -> NDArray[Any]:
    """Decode by GDCM from a file that holds the pixels alone: no rescaling is applied, nothing personal is written."""
    import SimpleITK  # 90 MB of each process that reads scans, for encodings that few scans have

    itk: Any = SimpleITK  # carries no types
    itk.ProcessObject.GlobalWarningDisplayOff()
    bare = Dataset()
    for keyword in _PIXEL_MODULE:
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.SOPClassUID, bare.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid(entropy_srcs=["pixels"])
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    with tempfile.TemporaryDirectory(prefix="pentad-") as folder:
        path = Path(folder) / "pixels.dcm"
        bare.save_as(path, enforce_file_format=True)
        reader = itk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        decoded: NDArray[Any] = itk.GetArrayFromImage(reader.Execute())
    return decoded


def _undecodable(error: Exception, name: str) -> CaseError:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return CaseError("PTD-343", f"cannot be read ({error.strerror})", "check the file and its permissions", name)
    if "missing dependencies" in text or "not been implemented" in text or "no available" in text:
        problem = "no installed decoder reads its compression"
        return CaseError("PTD-343", problem, "install pylibjpeg-libjpeg, or send the images uncompressed", name)
    problem = f"the pixel data cannot be decoded ({type(error).__name__})"
    return CaseError("PTD-343", problem, "fetch the file again or send it uncompressed", name)


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Where stored values are PixelPaddingValue, or between it and PixelPaddingRangeLimit."""
    if dataset.get("PixelPaddingValue") is None:
        return None
    first = _as_stored(dataset.PixelPaddingValue, stored.dtype)
    last = _as_stored(dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue), stored.dtype)
    low, high = sorted((first, last))
    return np.asarray((stored >= low) & (stored <= high))


def _as_stored(value: Any, kind: np.dtype[Any]) -> int:
    """The value as the pixels' type reads its 16 bits: writers mix up signed and unsigned here."""
    bits = kind.itemsize * 8
    number = int(value) % (1 << bits)
    return number - (1 << bits) if kind.kind == "i" and number >= 1 << (bits - 1) else number


def _used_bits(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """The bits that count, sign extended: the others may hold overlays or be left open."""
    allocated = int(dataset.BitsAllocated)
    used = int(dataset.get("BitsStored") or allocated)
    high = int(dataset.get("HighBit", used - 1))
    if used == allocated or not used - 1 <= high < allocated:
        return stored
    return np.asarray(np.right_shift(np.left_shift(stored, allocated - 1 - high), allocated - used))


def to_hounsfield(
    stored: NDArray[Any], padding: NDArray[np.bool_] | None, slope: float, intercept: float
) -> NDArray[np.float32]:
    """Return stored values as HU float32; padding becomes air.

    Padding whose value would lie among tissue (above -900 and below 3071 HU) is left: files exist that declare 0 as
    padding and store water as 0.
    """
    values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if padding is not None and padding.any():
        outside = padding & ((values <= _PADDING_BELOW_HU) | (values >= _PADDING_ABOVE_HU))
        values[outside] = AIR_HU
    return values
