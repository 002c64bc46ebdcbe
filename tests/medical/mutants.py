"""Studies damaged at random, from a seed: what transfers, anonymisers and broken disks make of DICOM files."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from medical.dicom_series import Scan, write_series
from pydicom import config

# Values around 80 to 370 HU, so that the threshold model finds something.
SOUND = Scan(shape=(12, 16, 14), origin=(-20.0, 10.0, 10.0))

ABSURD: tuple[object, ...] = (
    "",
    " ",
    "\\\\\\",
    "nan",
    "-inf",
    "1e308",
    "-1",
    "0",
    "99999999999999999999",
    "Ünïcødé " * 40,
    "../../../etc/passwd",
    "<script>alert(1)</script>",
    "a" * 5000,
    b"\xff\xfe\x00\x01",
    None,
)
TAGS = (
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID PatientID PatientName Modality"
    " ImageType SeriesNumber SeriesDescription ConvolutionKernel ImagePositionPatient ImageOrientationPatient"
    " PixelSpacing Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit"
    " PixelRepresentation RescaleSlope RescaleIntercept RescaleType StudyDate StudyTime SliceThickness PixelData"
    " NumberOfFrames PixelPaddingValue SpecificCharacterSet PatientSex PatientBirthDate AccessionNumber StudyID"
).split()

Mutation = Callable[[random.Random, list[Path]], None]


def some(chance: random.Random, paths: list[Path]) -> list[Path]:
    """One file, some or all of them."""
    return chance.sample(paths, chance.choice([1, 1, 3, len(paths)]))


def flip_bytes(chance: random.Random, paths: list[Path]) -> None:
    for path in some(chance, paths):
        content = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 5, 50])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)


def flip_header_bytes(chance: random.Random, paths: list[Path]) -> None:
    for path in some(chance, paths):
        content = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 3, 10])):
            content[chance.randrange(128, min(1200, len(content)))] = chance.randrange(256)
        path.write_bytes(content)


def cut(chance: random.Random, paths: list[Path]) -> None:
    for path in some(chance, paths):
        content = path.read_bytes()
        path.write_bytes(content[: chance.randrange(len(content))])


def append_noise(chance: random.Random, paths: list[Path]) -> None:
    for path in some(chance, paths):
        path.write_bytes(path.read_bytes() + chance.randbytes(chance.randrange(1, 3000)))


def rewrite(path: Path, change: Callable[[pydicom.Dataset], None]) -> None:
    with config.disable_value_validation():
        image = pydicom.dcmread(path)
        change(image)
        try:
            image.save_as(path)
        except Exception:  # a value that even the writer refuses: the bytes are damaged instead
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])


def remove_tags(chance: random.Random, paths: list[Path]) -> None:
    tags = chance.sample(TAGS, chance.choice([1, 2, 8]))
    for path in some(chance, paths):
        rewrite(path, lambda image: [image.pop(tag, None) for tag in tags if tag in image])


def absurd_values(chance: random.Random, paths: list[Path]) -> None:
    tag, value = chance.choice(TAGS), chance.choice(ABSURD)

    def change(image: pydicom.Dataset) -> None:
        vr = pydicom.datadict.dictionary_VR(tag)
        try:
            numbers = {"US": chance.choice([0, 1, 65535]), "OB or OW": b"\x00" * chance.randrange(100)}
            image.add_new(pydicom.datadict.tag_for_keyword(tag), vr.split()[0], numbers.get(vr, value))
        except Exception:  # refused by the library already: leave the tag out
            image.pop(tag, None)

    for path in some(chance, paths):
        rewrite(path, change)


def absurd_numbers(chance: random.Random, paths: list[Path]) -> None:
    tag = chance.choice(["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"])
    number = chance.choice(["nan", "1e300", "-1e300", "0", "1e-300", "inf", "1.0000001"])
    for path in some(chance, paths):
        rewrite(path, lambda image: setattr(image, tag, [number] * int(image[tag].VM) if image[tag].VM > 1 else number))


def shuffle(chance: random.Random, paths: list[Path]) -> None:
    """Give the slices each other's values of one attribute, or each other's names."""
    tag = chance.choice(["ImagePositionPatient", "PixelData", "SOPInstanceUID", "InstanceNumber", "file"])
    order = chance.sample(paths, len(paths))
    if tag == "file":
        contents = [path.read_bytes() for path in order]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return
    values = [pydicom.dcmread(path)[tag].value for path in order]
    for path, value in zip(paths, values, strict=True):
        rewrite(path, lambda image, value=value: setattr(image, tag, value))


def copy_slices(chance: random.Random, paths: list[Path]) -> None:
    for path in chance.sample(paths, 2):
        path.with_name(f"copy {path.name}").write_bytes(path.read_bytes())
    victim, other = chance.sample(paths, 2)
    victim.write_bytes(other.read_bytes())


def lose_slices(chance: random.Random, paths: list[Path]) -> None:
    for path in chance.sample(paths, chance.randrange(1, len(paths))):
        path.unlink()


def foreign_syntax(chance: random.Random, paths: list[Path]) -> None:
    """Claim a transfer syntax that the pixels do not have."""
    claimed = chance.choice(
        [b"1.2.840.10008.1.2.2\x00", b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.5\x00", b"1.2.3.4\x00"]
    )
    for path in some(chance, paths):
        content = path.read_bytes()
        path.write_bytes(re.sub(rb"1\.2\.840\.10008\.1\.2\.1\x00", claimed.ljust(20, b"\x00")[:20], content, count=1))


def odd_pixels(chance: random.Random, paths: list[Path]) -> None:
    for path in some(chance, paths):
        size = chance.choice([0, 1, 7, 16 * 14, 16 * 14 * 2 + 2])
        rewrite(path, lambda image, size=size: setattr(image, "PixelData", np.zeros(size, np.uint8).tobytes()))


MUTATIONS: tuple[Mutation, ...] = (
    flip_bytes,
    flip_header_bytes,
    cut,
    append_noise,
    remove_tags,
    absurd_values,
    absurd_numbers,
    shuffle,
    copy_slices,
    lose_slices,
    foreign_syntax,
    odd_pixels,
)


def write_mutants(root: Path, count: int, seed: int) -> None:
    """Write ``count`` studies of twelve slices, each damaged in one way, two in ten in two ways."""
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        folder = root / f"m{number:03d}"
        scan = Scan(**{**SOUND.__dict__, "study": f"mutant {number}", "patient": f"p{number}"})
        write_series(folder, scan)
        ways = [MUTATIONS[number % len(MUTATIONS)], *(chance.choices(MUTATIONS, k=1) if chance.random() < 0.2 else ())]
        ways[0](chance, sorted(folder.iterdir()))
        for way in ways[1:]:
            with contextlib.suppress(Exception):  # files that no library can open again are damaged enough
                way(chance, sorted(folder.iterdir()))
