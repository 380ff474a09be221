"""How much depends on the edge rule: RTSTRUCT contours drawn by us and by other rasterisers.

    python Testing/benchmarks/edge_pixels.py CASE ...        CASE: folder of a DICOM CT with an RTSTRUCT[:STRUCTURE]

Drawn beside ours: scikit-image's polygon2mask, OpenCV's fillPoly as rt-utils calls it (vertices rounded to whole
pixels, edge pixels in), and plastimatch, where they are installed. Printed for each: voxels, difference in volume,
voxels that differ, how many of the ten largest slices are the same in the same order, and the predicted risk.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from CNNSurvivalLib import load_model, predict, read_case
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.io.dicom import read_dataset
from CNNSurvivalLib.io.dicom_ct import read_series_in_folder
from CNNSurvivalLib.io.rtstruct import closed_contours, list_structures, read_rtstruct

TOP = 10


def polygons_by_slice(path: Path, name: str, volume) -> dict[int, list[np.ndarray]]:
    """Slice -> polygons [n, 2] (row, column) in continuous pixels, of the contours of one structure."""
    structures = list_structures(path)
    to_index, found = np.linalg.inv(volume.ijk_to_lps), {}
    for points in closed_contours(read_dataset(path), structures.numbers[structures.names.index(name)]):
        index = points @ to_index[:3, :3].T + to_index[:3, 3]
        found.setdefault(round(float(index[:, 2].mean())), []).append(index[:, [1, 0]])
    return found


def by_scikit_image(path: Path, name: str, volume) -> np.ndarray:
    from skimage.draw import polygon2mask

    mask = np.zeros(volume.array.shape, np.uint8)
    for k, polygons in polygons_by_slice(path, name, volume).items():
        for polygon in polygons:
            mask[k] ^= polygon2mask(mask.shape[1:], polygon).astype(np.uint8)
    return mask


def by_opencv(path: Path, name: str, volume) -> np.ndarray:
    import cv2

    mask = np.zeros(volume.array.shape, np.uint8)
    for k, polygons in polygons_by_slice(path, name, volume).items():
        rounded = [np.around(polygon[:, ::-1]).astype(np.int32) for polygon in polygons]
        cv2.fillPoly(mask[k], rounded, 1)
    return mask


def by_plastimatch(path: Path, name: str, volume) -> np.ndarray:
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        call = ["plastimatch", "convert", "--input", str(path), "--referenced-ct", str(path.parent),
                "--output-prefix", folder, "--prefix-format", "nrrd"]  # fmt: skip
        subprocess.run(call, check=True, capture_output=True)
        found = [each for each in Path(folder).glob("*.nrrd") if each.stem == name] or list(Path(folder).glob("*.nrrd"))
        image = sitk.ReadImage(str(found[0]))
    array = sitk.GetArrayFromImage(image).astype(np.uint8)
    same_way = np.dot(np.array(image.GetDirection())[[2, 5, 8]], volume.ijk_to_lps[:3, 2]) > 0
    return array if same_way else array[::-1]


RASTERISERS = {"scikit-image": by_scikit_image, "rt-utils (OpenCV)": by_opencv, "plastimatch": by_plastimatch}


def largest_slices(mask: np.ndarray) -> list[int]:
    areas = mask.sum(axis=(1, 2)).astype(int)
    return [int(k) for k in np.argsort(-areas, kind="stable")[:TOP] if areas[k]]


def risk_of(case, mask, model) -> str:
    try:
        return f"{predict(case.hu, mask, case.ijk_to_ras, model).risk:.4f}"
    except CNNSurvivalError:
        return "none (too small)"


def compare(folder: Path, structure: str | None, model) -> None:
    case = read_case(folder, folder, structure)
    volume = read_series_in_folder(folder, None, False)
    path = next(each for each in sorted(folder.iterdir()) if read_dataset(each).get("Modality") == "RTSTRUCT")
    name = structure or list_structures(path).names[0]
    ours = read_rtstruct(path, name, volume).array
    print(f"| {folder.name}, {name} | ours | {ours.sum()} | | | {len(largest_slices(ours))} | "
          f"{risk_of(case, ours, model)} |")  # fmt: skip
    for tool, draw in RASTERISERS.items():
        try:
            other = draw(path, name, volume)
        except (ImportError, OSError) as error:
            print(f"{tool} is left out: {error}", file=sys.stderr)
            continue
        same = sum(a == b for a, b in zip(largest_slices(ours), largest_slices(other)))
        change = 100 * (int(other.sum()) / int(ours.sum()) - 1)
        print(f"| | {tool} | {other.sum()} | {change:+.2f} % | {np.sum(ours != other)} | {same} | "
              f"{risk_of(case, other, model)} |")  # fmt: skip


def main() -> None:
    model = load_model()
    print(f"| case | drawn by | voxels | volume | voxels that differ | same place among {TOP} largest | risk |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for argument in sys.argv[1:]:
        folder, _, structure = argument.partition(":")
        compare(Path(folder), structure or None, model)


if __name__ == "__main__":
    main()
