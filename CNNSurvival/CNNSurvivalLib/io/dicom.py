"""What the readers of DICOM CT, SEG and RTSTRUCT share."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import CNNSurvivalError, UsageError
from .grid import Volume
from .quiet import reading
from .texts import one_line

BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
# A deflated file that inflates to more than this is made to fill the memory; pydicom inflates all of it.
MAX_INFLATED = 2**30
# A deflated file is read and inflated in parts of this many bytes, so that counting takes no memory.
BLOCK_BYTES = 2**16


def read_dataset(path: Path, **options):
    """``pydicom.dcmread`` with its options. Raises ValueError for a deflated file that inflates to very much."""
    import pydicom

    inflated_length(path)
    return pydicom.dcmread(path, **options)


def inflated_length(path: Path) -> int | None:
    """How long the dataset of a deflated file is; None for a file that is not deflated."""
    with path.open("rb") as file:
        return _count_inflated(file) if _transfer_syntax(file) == DEFLATED else None


def _transfer_syntax(file):
    """The transfer syntax of an open DICOM file, which is then at the first byte of its dataset.

    pydicom takes no notice of the group length, and looks for a command set first. The dataset must begin here where
    it begins there, or a file could have another stream counted than the one that is inflated: so its own functions,
    in the order of its ``read_partial``. 2.4, 3.0 and 3.1 have all three.
    """
    from pydicom.filereader import _read_command_set_elements, _read_file_meta_info, read_preamble

    read_preamble(file, False)
    meta = _read_file_meta_info(file)
    _read_command_set_elements(file)
    return meta.get("TransferSyntaxUID")


def _count_inflated(file) -> int:
    """How long the rest of an open file is, inflated. Raises ValueError for very much."""
    inflating, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
    for part in iter(lambda: file.read(BLOCK_BYTES), b""):
        while part and not inflating.eof:  # behind its end lie a byte of padding, or others; nobody inflates them
            length += len(inflating.decompress(part, BLOCK_BYTES))
            part = inflating.unconsumed_tail
            if length > MAX_INFLATED:
                raise ValueError(f"more than {MAX_INFLATED} bytes, deflated")
    return length


@contextmanager
def decoding(what: str, path: Path) -> Iterator[None]:
    """Around decoding pixels: where it fails, the error names the compression, if there is one."""
    try:
        yield
    except (CNNSurvivalError, MemoryError):
        raise
    except Exception as error:
        compression = _compression(path)
        if compression:
            raise CNNSurvivalError(
                f"The pixels of the {what} {path} ({compression}) cannot be decoded: they are damaged, or no decoder "
                "for them is installed here; save it without compression."
            ) from error
        raise


def _compression(path: Path) -> str:
    """ "1 bit each, compressed as RLE Lossless"; "" for a file that is not compressed, or cannot be read at all."""
    with suppress(Exception):
        header = read_dataset(path, specific_tags=["BitsAllocated"], stop_before_pixels=True)
        syntax, bits = header.file_meta.TransferSyntaxUID, int(header.BitsAllocated)
        if syntax.is_encapsulated:
            return f"{bits} {'bit' if bits == 1 else 'bits'} each, compressed as {one_line(syntax.name)}"
    return ""


def is_dicom(what: str, path: Path) -> bool:
    """Whether a file begins as DICOM files do. Raises UsageError for what is no file."""
    if not path.is_file():  # a pipe or a device: whoever opens it waits
        raise UsageError(f"The {what} {path} is neither a file nor a folder; give one of these.")
    with reading(what, path), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def modality_of(path: Path) -> str:
    """The modality of a DICOM file, "" for any other file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = read_dataset(path, specific_tags=["Modality"], stop_before_pixels=True)
            return one_line(header.get("Modality", ""), 16)
    except Exception:  # not DICOM
        return ""


def check_lengths(path: Path) -> None:
    """Raises EOFError where an element claims to reach beyond its file: GDCM reserves and fills what it claims."""
    import pydicom

    size = inflated_length(path) or path.stat().st_size  # in a deflated file, places count from the inflated dataset
    dataset = pydicom.dcmread(path, defer_size=1024)  # larger ones are passed over, not read
    for element in dataset.values():
        length = getattr(element, "length", 0)
        if length != 0xFFFFFFFF and getattr(element, "value_tell", 0) + length > size:
            raise EOFError(f"{element.tag} is longer than the file")


def import_highdicom():
    """The package highdicom. Raises CNNSurvivalError where it is not installed."""
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise CNNSurvivalError(
            "DICOM SEG and multi-frame CT need the Python package 'highdicom', which is not installed here; install "
            "it, or save the segmentation as .seg.nrrd or a label image."
        ) from error
    return highdicom


def reference_warning(kind: str, path: Path, series: Sequence[str], frames: Sequence[str], ct: Volume):
    """() where the mask refers to this CT (or the CT is no DICOM), else a warning; raises where it cannot be right."""
    frames = [one_line(uid) for uid in frames if uid]
    series = [one_line(uid) for uid in series]
    if ct.series_uid in series or (ct.series_uid is None and ct.frame_uid is None):
        return ()
    if frames and ct.frame_uid and ct.frame_uid not in frames:
        other = f" and to another series ({series[0]}, not {ct.series_uid or 'one without UID'})" if series else ""
        raise CNNSurvivalError(
            f"The {kind} {path} refers to another frame of reference{other} than the CT, so its places mean nothing "
            "there; give the CT it was drawn on."
        )
    if not any(series):
        return (f"The {kind} does not say on which series it was drawn; check that it belongs to this CT.",)
    if ct.series_uid is None:
        return (f"The CT does not say which series it is; check that the {kind} belongs to it.",)
    shared = " in the same frame of reference" if frames and ct.frame_uid else ""
    return (
        f"The {kind} was drawn on another series{shared} ({series[0]}); check that contour and CT show the same place.",
    )
