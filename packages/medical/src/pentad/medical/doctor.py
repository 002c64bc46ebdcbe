"""What ``pentad doctor`` says of reading and naming medical images on this machine."""

from __future__ import annotations

from pentad.medical.privacy import default_key_file


def findings() -> list[tuple[str, str]]:
    """Return which compressed DICOM images can be decoded, and where the key of the pseudonyms is."""
    from pydicom import uid
    from pydicom.pixels.decoders.base import get_decoder

    kinds = {
        "RLE": uid.RLELossless,
        "JPEG": uid.JPEGBaseline8Bit,
        "JPEG-LS": uid.JPEGLSLossless,
        "JPEG 2000": uid.JPEG2000Lossless,
        "HTJ2K": uid.HTJ2KLossless,
    }
    decoders = {name: get_decoder(kind) for name, kind in kinds.items()}
    lacking = [name for name, decoder in decoders.items() if not decoder.is_available]
    mend = f"cannot decode {', '.join(lacking)}: pip install pentad-medical again brings the decoders"
    key = default_key_file()
    place = f"in {key}; keep it, or every study gets another name" if key.is_file() else f"made at first use, in {key}"
    return [
        ("DICOM", mend if lacking else f"decodes {', '.join(kinds)}"),
        ("pseudonyms' key", place),
    ]
