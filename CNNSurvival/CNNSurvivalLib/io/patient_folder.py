"""The patients of a folder: a sub-folder for each, or pairs of files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Optional

from ..errors import UsageError, existing
from .archive import is_zip
from .case import Case, with_folder_names

# What tells a mask from a CT in a file name
_MASK_WORDS = re.compile(r"(^|[^a-z])(mask|label|labels|seg|segmentation|roi|gtvp?|tumou?r|contours?)([^a-z]|$)", re.I)
_CT_WORDS = re.compile(r"(^|[^a-z])(ct|image|img|volume|scan)([^a-z]|$)", re.I)
_IMAGES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")


def folder_cases(folder) -> list[Case]:
    """A case for each patient of a folder: its sub-folders, or the pairs of files in it.

    A sub-folder holds a CT and a mask: two image files of which one is called a mask (mask, seg, label, GTV, tumour,
    ...), or DICOM files with an RTSTRUCT or SEG among them, or these as one ZIP archive; such an archive may stand in
    place of the sub-folder. In a folder of files, a CT and a mask belong together when their names differ in such a
    word alone. What does not fit is a case with a problem. Raises UsageError for what is not a folder, or holds no
    patients.
    """
    folder = existing(folder, "folder")
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is not a folder; choose one with a sub-folder for each patient.")
    cases = [_subfolder_case(path, folder) for path in sorted(folder.iterdir()) if path.is_dir()]
    cases += [_case(path.stem, path, path, folder) for path in sorted(folder.iterdir()) if is_zip(path)]
    cases += _pairs(folder)
    if not cases:
        raise UsageError(f"The folder '{folder}' holds no patients: no sub-folders, no NRRD, NIfTI or MetaImage files.")
    return with_folder_names(replace(case, number=number) for number, case in enumerate(cases, 1))


def _subfolder_case(path: Path, root: Path) -> Case:
    images = _image_files(path)
    masks = [image for image in images if _is_mask(image)]
    scans = [image for image in images if not _is_mask(image)]
    others = [file for file in path.rglob("*") if file.is_file() and file not in images]
    if len(masks) == 1 and len(scans) == 1:
        return _case(path.name, scans[0], masks[0], root)
    if not images and len(others) == 1 and is_zip(others[0]):
        return _case(path.name, others[0], others[0], root)
    if not scans and others:  # DICOM; the mask may be an image file beside it
        return _case(path.name, path, masks[0] if len(masks) == 1 else path, root)
    problem = f"The folder '{path.name}' holds {len(scans)} CTs and {len(masks)} masks; it needs one of each."
    return _case(path.name, path, path, root, problem)


def _pairs(folder: Path) -> list[Case]:
    found: dict = {}
    for image in _image_files(folder):
        kind = "mask" if _is_mask(image) else "image"
        words = _MASK_WORDS if kind == "mask" else _CT_WORDS
        name = words.sub(" ", _stem(image)).strip(" ._-") or _stem(image)
        found.setdefault(name, {}).setdefault(kind, []).append(image)
    cases = []
    for name, files in found.items():
        images, masks = files.get("image", []), files.get("mask", [])
        if len(images) == 1 and len(masks) == 1:
            cases.append(_case(name, images[0], masks[0], folder))
        else:
            problem = f"'{name}' has {len(images)} CTs and {len(masks)} masks; it needs one of each."
            cases.append(_case(name, *[(some or [folder])[0] for some in (images, masks)], folder, problem))
    return cases


def _image_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(_IMAGES))


def _is_mask(path: Path) -> bool:
    return path.name.lower().endswith(".seg.nrrd") or _MASK_WORDS.search(_stem(path)) is not None


def _stem(path: Path) -> str:
    return re.sub(r"(\.seg)?\.(nrrd|nhdr|nii|nii\.gz|mha|mhd)$", "", path.name, flags=re.I)


def _case(name: str, image: Path, mask: Path, root: Path, problem: Optional[str] = None) -> Case:
    relative = [str(path.relative_to(root)) for path in (image, mask)]
    return Case(*relative, patient_id=name, folder=root, problem=problem)
