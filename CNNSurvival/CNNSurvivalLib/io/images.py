"""NRRD, NIfTI and MetaImage files, read by SimpleITK. Checked first for what would crash it or fill the memory."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import numpy as np

from ..errors import CNNSurvivalError
from .grid import LPS_TO_RAS, MAX_VOXELS, SAME_GRID_VOXELS, Volume
from .quiet import reading
from .segments import too_many_segments
from .texts import size_text

# What gzip can do at best is 1032 : 1.
MAX_COMPRESSION = 1100
# A NRRD header line longer than this must be a key:=value: ITK's reader writes others that it cannot parse into a
# buffer of fixed size, and crashes.
MAX_NRRD_FIELD = 400
# The time that SimpleITK needs grows with the square of the lines. A file of 1000 segments has fewer.
MAX_NRRD_LINES = 20_000


def read_ct_image(path: Path) -> Volume:
    """A CT from an image file."""
    image = squeezed("CT", path, read_image("CT", path))
    return Volume(np.asarray(ImageArray(image)), geometry_of(image), nifti_warning("CT", path, image))


class ImageArray:
    """An image's own voxels for NumPy, read-only, without a copy: SimpleITK's view does not keep its image alive."""

    def __init__(self, image):
        import SimpleITK as sitk

        self._image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def read_image(what: str, path: Path):
    """The SimpleITK image of a file, of any dimension, read only after its header was checked."""
    import SimpleITK as sitk

    with reading(what, path):
        _check_declared_size(what, path)
        image = sitk.ReadImage(str(path))
        _check_nifti_length(path, image)
        if "complex" in image.GetPixelIDTypeAsString():
            raise CNNSurvivalError(f"The {what} {path} has complex numbers for voxels; give Hounsfield units.")
    return image


def _check_declared_size(what: str, path: Path) -> None:
    """Raises CNNSurvivalError for an image that claims to be larger than any, or than its file can hold."""
    import SimpleITK as sitk

    with path.open("rb") as file:
        nrrd = file.read(4) == b"NRRD"
    if nrrd:
        size = _nrrd_size(what, path)
    else:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = [reader.GetNumberOfComponents(), *reader.GetSize()]
    with_data = path.suffix.lower() not in (".nhdr", ".mhd", ".hdr")
    voxels = math.prod(size)
    if voxels > MAX_VOXELS or (with_data and voxels > MAX_COMPRESSION * path.stat().st_size):
        raise CNNSurvivalError(f"The {what} {path} says that it has {voxels:.2g} voxels, which it cannot hold; it is "
                               "damaged.")  # fmt: skip


def _nrrd_size(what: str, path: Path) -> list[int]:
    """The sizes in a NRRD header. Raises ValueError for a header that would crash ITK's reader, CNNSurvivalError for
    one that would keep it busy for minutes, or whose data lie in no file."""
    size: list = []
    with path.open("rb") as file:
        for number, line in enumerate(iter(file.readline, b"")):
            if not line.strip(b"\r\n"):
                break
            if number > MAX_NRRD_LINES:
                raise too_many_segments(path)
            field, _, value = line.partition(b": ")
            if len(line) > MAX_NRRD_FIELD and b":=" not in field and not line.startswith(b"#"):
                raise ValueError("a header line too long")
            name = field.replace(b" ", b"").lower()
            if name == b"sizes":
                size = [int(part) for part in value.split()]
            if name == b"datafile" and not value.startswith(b"LIST") and b"%" not in value:
                if not (path.parent / os.fsdecode(value.strip())).is_file():
                    raise CNNSurvivalError(f"The data of the {what} {path} are missing; its header names another file.")
    return size


def _check_nifti_length(path: Path, image) -> None:
    """Raises EOFError where a NIfTI file is cut off: ITK fills up with zeros and says nothing."""
    if not image.HasMetaDataKey("bitpix") or path.suffix.lower() not in (".nii", ".gz"):
        return
    voxels = np.prod([max(1, int(float(image.GetMetaData(f"dim[{n}]")))) for n in range(1, 8)], dtype=np.int64)
    expected = int(voxels) * int(image.GetMetaData("bitpix")) // 8
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as file:  # raises, too, where the compressed data are damaged
            length = sum(len(part) for part in iter(lambda: file.read(1 << 24), b""))
    else:
        length = path.stat().st_size
    if length < expected:
        raise EOFError(f"{length} bytes instead of {expected}")


def squeezed(what: str, path: Path, image):
    """The image in 3D, without further axes of length 1."""
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise CNNSurvivalError(
            f"The {what} {path} has {image.GetNumberOfComponentsPerPixel()} values per voxel (a colour image or a time "
            "series); give a single grey-level volume."
        )
    if image.GetDimension() < 3:
        raise CNNSurvivalError(f"The {what} {path} is a flat picture, not a volume; give all slices in one 3D file.")
    while image.GetDimension() > 3:
        if image.GetSize()[-1] != 1:
            raise CNNSurvivalError(
                f"The {what} {path} has {image.GetDimension()} dimensions ({size_text(image.GetSize())} voxels: a time "
                "series or several volumes); give a single 3D volume."
            )
        image = image[..., 0]
    return image


def geometry_of(image) -> np.ndarray:
    """ijk_to_lps, 4 x 4, of the first three axes of a SimpleITK image."""
    n = image.GetDimension()
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(n, n)[:3, :3]
    matrix[:3, :3] = direction * np.array(image.GetSpacing())[:3]
    matrix[:3, 3] = np.array(image.GetOrigin())[:3]
    return matrix


def nifti_warning(what: str, path: Path, image) -> tuple[str, ...]:
    """A sentence where a NIfTI file gives two places, qform and sform, that differ: which one ITK took."""
    try:
        codes = [int(image.GetMetaData(f"{form}_code")) for form in ("qform", "sform")]
        forms = {"qform": _qform(image), "sform": _sform(image)}
    except (RuntimeError, ValueError):  # no NIfTI, or none that gives both
        return ()
    if min(codes) <= 0:
        return ()
    size = np.array(image.GetSize()[:3]) - 1
    corners = np.array(np.meshgrid(*[[0, n] for n in size], [1], indexing="ij")).reshape(4, -1)
    places = {form: (LPS_TO_RAS @ matrix @ corners)[:3] for form, matrix in forms.items()}
    apart = float(np.linalg.norm(places["qform"] - places["sform"], axis=0).max())
    if not apart > SAME_GRID_VOXELS * min(image.GetSpacing()[:3]):
        return ()
    taken = (geometry_of(image) @ corners)[:3]
    nearest = min(forms, key=lambda form: np.abs(places[form] - taken).max())
    return (
        f"The {what} {path} gives two places, qform and sform, up to {apart:.3g} mm apart; the {nearest} was taken, so "
        "check that contour and CT show the same place.",
    )


def _sform(image) -> np.ndarray:
    return np.array([*([float(v) for v in image.GetMetaData(f"srow_{axis}").split()] for axis in "xyz"), [0, 0, 0, 1]])


def _qform(image) -> np.ndarray:
    """4 x 4, (i, j, k, 1) to RAS mm, from a NIfTI header's quaternion."""
    b, c, d = (float(image.GetMetaData(f"quatern_{part}")) for part in "bcd")
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    spacing = [float(image.GetMetaData(f"pixdim[{n}]")) for n in (1, 2, 3)]
    mirrored = -1 if float(image.GetMetaData("pixdim[0]")) < 0 else 1
    matrix[:3, :3] *= spacing[0], spacing[1], mirrored * spacing[2]
    matrix[:3, 3] = [float(image.GetMetaData(f"qoffset_{axis}")) for axis in "xyz"]
    return matrix
