"""The made-up patient and the demo that runs on it."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from CNNSurvivalLib.io.read import read_case
from CNNSurvivalLib.mrml.guesses import guess_segment, guess_segmentation
from CNNSurvivalLib.mrml.inputs import ct_and_mask
from CNNSurvivalLib.mrml.results import find_result, read_record
from CNNSurvivalLib.report.text import summary
from CNNSurvivalLib.slices import extract_slices
from training_cli.demo import phantom
from training_cli.demo import run as demo
from training_cli.demo.phantom import HEART, SHAPE, SPACING, TUMOUR


@pytest.fixture(scope="session")
def anatomy():
    return phantom._draw(2020)


@pytest.fixture(scope="session")
def arrays(anatomy):
    """What phantom_arrays() returns."""
    return phantom._arrays(anatomy, 2020)


@pytest.fixture(scope="session")
def ran(tmp_path_factory):
    """(output folder, prediction, lines) of one run of the demo, on random weights."""
    pytest.importorskip("slicer", reason="needs slicer-core (pip install slicer-core)")
    from bundle_maker import bundle_info, random_weights
    from CNNSurvivalLib.bundle import save_bundle

    folder = tmp_path_factory.mktemp("demo")
    bundle = save_bundle(folder / "bundle", bundle_info(), random_weights())
    lines = []
    return folder / "output", demo.run(folder / "output", bundle, lines.append), lines


@pytest.fixture(scope="session")
def files(ran):
    return ran[0] / "phantom"


# --- The patient ----------------------------------------------------------------------------------------------


def test_tissues_have_their_hounsfield_units(arrays):
    hu, masks, spacing, _ = arrays
    assert hu.shape == SHAPE and hu.dtype == np.int16 and spacing == SPACING
    tumour, heart = hu[masks[TUMOUR] > 0], hu[masks[HEART] > 0]
    assert 20 < np.median(tumour) < 80
    assert 80 < np.median(heart) < 180
    assert np.percentile(hu, 1) < -950  # air around the patient
    assert np.mean((hu > -930) & (hu < -750)) > 0.08  # lungs
    assert np.mean((hu > -130) & (hu < -70)) > 0.03  # fat
    assert np.mean(hu > 300) > 0.003  # bone
    assert hu.min() >= -1024 and hu.max() < 3072


def test_noise_is_that_of_a_scanner(arrays):
    """About 10 HU in the heart, and neighbours alike."""
    hu, masks, _, _ = arrays
    inside = masks[HEART][10] > 0
    detail = np.diff(hu[10].astype(float), axis=1)[inside[:, 1:] & inside[:, :-1]]
    assert 3 < np.median(np.abs(detail)) / 0.6745 / np.sqrt(2) < 13


def test_tumour_lies_in_the_right_upper_lobe_and_fills_enough_slices(arrays):
    hu, masks, _, ijk_to_ras = arrays
    slices = extract_slices(hu, masks[TUMOUR], ijk_to_ras)
    assert 8 <= len(slices) <= 14
    assert slices.warnings == ()
    right, _, superior = slices.center_ras.mean(axis=0)
    assert right > 50 and superior > 20
    volume_cc = masks[TUMOUR].sum() * np.prod(SPACING) / 1000
    assert 14 < volume_cc < 35  # a ball of 3 to 4 cm
    around = hu[masks[TUMOUR].any(axis=(1, 2))]
    assert np.median(around[:, 150:240, 90:170]) < -700  # in lung


def test_tumour_is_spiculated_with_a_darker_core(arrays):
    hu, masks, _, _ = arrays
    k = int(np.argmax(masks[TUMOUR].sum(axis=(1, 2))))
    mask = masks[TUMOUR][k] > 0
    rows, columns = np.nonzero(mask)
    distance = np.hypot(rows - rows.mean(), columns - columns.mean())
    values = hu[k][mask]
    half = np.sqrt(mask.sum() / np.pi)
    assert (
        values[distance < 0.35 * half].mean() < values[(distance > 0.55 * half) & (distance < 0.85 * half)].mean() - 8
    )
    outline = np.sum(mask[1:] != mask[:-1]) + np.sum(mask[:, 1:] != mask[:, :-1])
    assert outline / (8 * half) > 1.1  # of a disc it is 1


# --- Its DICOM files ------------------------------------------------------------------------------------------


def test_ct_series_reads_back_exactly(arrays, files):
    hu, masks, _, ijk_to_ras = arrays
    case = read_case(files / "ct", files / "segmentation.dcm", TUMOUR)
    assert np.array_equal(case.hu, hu)
    assert np.allclose(case.ijk_to_ras, ijk_to_ras, atol=1e-6)
    assert np.array_equal(case.mask, masks[TUMOUR])
    assert not case.warnings


@pytest.mark.parametrize("name", [TUMOUR, HEART])
def test_contours_enclose_the_same_voxels(arrays, files, name):
    case = read_case(files / "ct", files / "structures.dcm", name)
    assert not case.warnings
    differing = np.count_nonzero(case.mask != arrays[1][name])
    assert differing < 1e-3 * arrays[1][name].sum()


def test_headers_look_like_a_scanners_and_name_nobody(files):
    ct = [pydicom.dcmread(path) for path in sorted((files / "ct").iterdir())]
    first = ct[0]
    assert len(ct) == SHAPE[0]
    assert (first.Modality, first.KVP, first.SliceThickness, first.PatientPosition) == ("CT", 120, 3, "HFS")
    assert (str(first.PatientName), first.PatientID) == ("Phantom^CNNSurvival", "PHANTOM")
    assert len({str(dataset.SOPInstanceUID) for dataset in ct}) == len(ct)
    for name in ("segmentation.dcm", "structures.dcm"):
        other = pydicom.dcmread(files / name)
        for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert other[keyword].value == first[keyword].value
        assert other.SeriesInstanceUID != first.SeriesInstanceUID
        referenced = {str(e.value) for e in other.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        assert referenced & {str(dataset.SOPInstanceUID) for dataset in ct}


def test_the_same_files_every_time(anatomy, files, tmp_path, monkeypatch):
    """The demo drew the patient by itself, so this compares two drawings, too."""

    def digests(folder):
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*.dcm")
        }

    monkeypatch.setattr(phantom, "_draw", lambda seed: anatomy)
    phantom.make_phantom(tmp_path)
    assert digests(tmp_path) == digests(files)


# --- The demo -------------------------------------------------------------------------------------------------


def test_demo_leaves_what_it_promises(ran):
    output, prediction, lines = ran
    text = "\n".join(lines)
    for name in ("survival_curve.png", "survival_curve.csv", "horizons.csv", "slices.csv", "prediction.json",
                 demo.SCENE_FILE, "phantom"):  # fmt: skip
        assert (output / name).exists() and name in text
    assert sorted(path.name for path in output.iterdir() if path.name.startswith((".", "tmp"))) == []
    assert (output / "survival_curve.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((output / "prediction.json").read_text(encoding="utf-8"))
    assert record["risk"] == prediction.risk and record["n_slices"] == len(prediction.slices) >= 8
    with open(output / "slices.csv", encoding="utf-8", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(prediction.slices)
    assert "Research use only" in text


def test_both_ways_agree(ran):
    """Scene with DICOM SEG, and command line with RTSTRUCT: contours and voxels differ in a few voxels at most."""
    _, prediction, lines = ran
    (line,) = [line for line in lines if "RTSTRUCT (command line" in line]
    assert abs(float(line.split()[-1].rstrip("%")) / 100 - prediction.risk) < 0.01


def test_scene_opens_with_everything_in_it(ran, arrays, tmp_path):
    import slicer

    output, prediction, _ = ran
    scene, manager, cache = slicer.vtkMRMLScene(), slicer.vtkDataIOManager(), slicer.vtkCacheManager()
    logics = slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkMRMLColorLogic()
    for logic in logics:
        logic.SetMRMLScene(scene)
    cache.SetRemoteCacheDirectory(str(tmp_path))
    manager.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    assert scene.ReadFromMRB(str(output / demo.SCENE_FILE))
    volume = scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    segmentation = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    hu, mask, ijk_to_ras, warnings = ct_and_mask(volume, segmentation, TUMOUR)
    assert np.array_equal(hu, arrays[0]) and np.array_equal(mask, arrays[1][TUMOUR])
    assert np.allclose(ijk_to_ras, arrays[3], atol=1e-4) and warnings == []
    assert volume.GetDisplayNode().GetColorNode().GetName() == "Grey"
    assert segmentation.GetSegmentation().ContainsRepresentation("Closed surface")  # what the 3D view shows
    assert guess_segmentation(scene, volume) is segmentation
    assert guess_segment(segmentation) == TUMOUR
    result = find_result(scene, volume, segmentation, TUMOUR)
    assert result.summary.GetNumberOfRows() == len(summary(prediction))
    assert read_record(result)["risk"] == prediction.risk
    assert scene.GetFirstNodeByClass("vtkMRMLPlotViewNode").GetPlotChartNode() is result.chart
    assert scene.GetFirstNodeByClass("vtkMRMLSelectionNode").GetActivePlotChartID() == result.chart.GetID()
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    items = [hierarchy.GetItemByDataNode(node) for node in (volume, segmentation)]
    studies = {hierarchy.GetItemParent(item) for item in items}
    assert len(studies) == 1
    assert hierarchy.GetItemName(hierarchy.GetItemParent(studies.pop())) == "Phantom"


def test_scene_is_saved_below_a_relative_folder(tmp_path, monkeypatch):
    slicer = pytest.importorskip("slicer", reason="needs slicer-core (pip install slicer-core)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-output").mkdir()
    demo.save_scene(slicer.vtkMRMLScene(), Path("demo-output") / demo.SCENE_FILE)
    assert [path.name for path in (tmp_path / "demo-output").iterdir()] == [demo.SCENE_FILE]


def test_demo_says_in_one_sentence_what_is_wrong(tmp_path, capsys):
    assert demo.main(["--output", str(tmp_path), "--model", str(tmp_path / "missing")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
