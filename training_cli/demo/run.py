"""``make demo``: everything once, from DICOM files to a report, on a made-up patient.

The phantom's DICOM files are loaded into a MRML scene as Slicer would hold them, the prediction runs through the
functions that the Slicer module calls, and the result is left as files and as a scene that opens in Slicer. The
command line's reader then takes the same patient from CT and RTSTRUCT, as a check on both ways.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from CNNSurvivalLib.bundle import Bundle, default_bundle_folder, load_bundle
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.files import ensure_output_folder
from CNNSurvivalLib.hazards import MONTH_DAYS
from CNNSurvivalLib.io.grid import LPS_TO_RAS
from CNNSurvivalLib.io.read import read_case
from CNNSurvivalLib.mrml.guesses import guess_segment
from CNNSurvivalLib.mrml.inputs import predict_nodes
from CNNSurvivalLib.mrml.results import read_record, write_result
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY, Prediction, predict
from CNNSurvivalLib.report.case_folder import write_case_folder
from CNNSurvivalLib.report.text import sentence, summary

from ..figures.survival import survival_png
from .phantom import TUMOUR, Phantom, make_phantom

SCENE_FILE = "CNNSurvival-demo.mrb"
_SLICE_VIEWS = (  # as Slicer has them
    ("Red", "Axial", (0.953, 0.290, 0.2)),
    ("Yellow", "Sagittal", (0.929, 0.835, 0.298)),
    ("Green", "Coronal", (0.431, 0.690, 0.294)),
)


class Loaded(NamedTuple):
    """The patient as nodes of a scene."""

    scene: object
    volume: object  # vtkMRMLScalarVolumeNode
    segmentation: object  # vtkMRMLSegmentationNode
    logics: tuple  # to be kept as long as the scene: with the colour logic, the colour tables leave the scene


def main(argv=None) -> int:
    """Run the demo; 0, or 1 with one sentence on stderr where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m training_cli.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--output", default="demo-output", type=Path, help="folder for the results (%(default)s)")
    parser.add_argument("--model", type=Path, help="model folder (the shipped default model)")
    options = parser.parse_args(argv)
    try:
        bundle = load_bundle(options.model or default_bundle_folder())
        run(options.output, bundle)
    except CNNSurvivalError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def run(output, bundle: Bundle, log=print) -> Prediction:
    """Make the phantom, predict and write everything below ``output``; log(line) is called with each line of text."""
    start = time.perf_counter()
    output = ensure_output_folder(output)
    log("Making a chest CT of a patient who does not exist ...")
    phantom = make_phantom(output / "phantom")
    log("Loading it into a scene, predicting ...")
    loaded = load_scene(phantom)
    segment_id = guess_segment(loaded.segmentation)
    prediction = predict_nodes(loaded.volume, loaded.segmentation, segment_id, bundle)
    result = write_result(loaded.scene, prediction, loaded.volume, loaded.segmentation, segment_id)
    show_result(loaded, result, prediction)
    save_scene(loaded.scene, output / SCENE_FILE)
    write_files(output, prediction, read_record(result)["inputs"])
    from_rtstruct = predict_from_rtstruct(phantom, bundle)
    for line in report(output, prediction, from_rtstruct, time.perf_counter() - start):
        log(line)
    return prediction


def write_files(output: Path, prediction: Prediction, inputs: dict) -> None:
    """The report, the picture and the tables."""
    title = "Predicted survival of the phantom"
    write_case_folder(prediction, output, inputs, picture=lambda: survival_png(prediction, title))


def predict_from_rtstruct(phantom: Phantom, bundle: Bundle) -> Prediction:
    """The same patient as the command line reads it: without MRML, from the contours and not the voxels."""
    case = read_case(phantom.ct_folder, phantom.rtstruct_path, TUMOUR)
    return predict(case.hu, case.mask, case.ijk_to_ras, bundle, input_warnings=tuple(case.warnings))


def report(output: Path, prediction: Prediction, from_rtstruct: Prediction, seconds: float) -> list[str]:
    """The lines that the demo prints when it is done."""
    months = prediction.bundle.risk_time_days / MONTH_DAYS
    rows = [
        *summary(prediction),
        (f"Risk of death within {months:g} months", ""),
        ("  scene, DICOM SEG (Slicer's way)", f"{prediction.risk:.1%}"),
        ("  files, RTSTRUCT (command line's way)", f"{from_rtstruct.risk:.1%}"),
    ]
    width = max(len(label) for label, _ in rows)
    files = {
        "report.pdf": "the result on one page",
        "survival_curve.png": "the curve",
        "survival_curve.csv": "the curve as numbers",
        "horizons.csv": "survival at 6 to 36 months",
        "slices.csv": "the slices that the model saw",
        "prediction.json": "everything, with where it comes from",
        SCENE_FILE: "a scene to open in 3D Slicer",
        "phantom/": "the patient: DICOM CT, SEG and RTSTRUCT",
    }
    return [
        "",
        *(f"  {label:<{width}}  {text}".rstrip() for label, text in rows),
        "",
        sentence(prediction),
        *(f"Warning: {warning}" for warning in prediction.warnings),
        "",
        f"In {output}/ ({seconds:.0f} s):",
        *(f"  {name:<{width}}  {text}" for name, text in files.items()),
        "",
        f"The patient is invented. {RESEARCH_USE_ONLY}",
    ]


# --- The scene ------------------------------------------------------------------------------------------------


def load_scene(phantom: Phantom) -> Loaded:
    """A new scene with the CT and the segmentation, below patient and study in the subject hierarchy."""
    slicer = _slicer()
    scene = slicer.vtkMRMLScene()
    logics = (slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkMRMLColorLogic())
    for logic in logics:
        logic.SetMRMLScene(scene)  # they register what segmentations and display nodes need, as Slicer does
    volume = _load_ct(scene, phantom.ct_folder)
    segmentation = _load_segmentation(scene, phantom.seg_path, volume)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Phantom")
    study = hierarchy.CreateStudyItem(patient, "Chest CT (phantom)")
    for node in (volume, segmentation):
        hierarchy.CreateItem(study, node)
    return Loaded(scene, volume, segmentation, logics)


def _load_ct(scene, folder: Path):
    import SimpleITK as sitk
    import vtk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    steps = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:3, :3], ijk_to_lps[:3, 3] = steps, image.GetOrigin()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Chest CT")
    node.SetIJKToRASMatrix(_vtk_matrix(LPS_TO_RAS @ ijk_to_lps))
    node.SetAndObserveImageData(_vtk_image(sitk.GetArrayViewFromImage(image), vtk.vtkImageData()))
    node.CreateDefaultDisplayNodes()
    display = node.GetScalarVolumeDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(400, 40)
    return node


def _load_segmentation(scene, path: Path, volume):
    import highdicom as hd

    slicer = _slicer()
    seg = hd.seg.segread(path)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for number in seg.segment_numbers:
        description = seg.get_segment_description(number)
        found = seg.get_volume(segment_numbers=[number], dtype=np.uint8)
        ijk_to_lps = found.affine[:, [2, 1, 0, 3]]  # highdicom's takes (k, j, i)
        image = _vtk_image(found.array[..., 0], slicer.vtkOrientedImageData())
        image.SetGeometryFromImageToWorldMatrix(_vtk_matrix(LPS_TO_RAS @ ijk_to_lps))
        name = str(description.segment_label)
        color = hd.color.CIELabColor.from_dicom_value(description.RecommendedDisplayCIELabValue).to_rgb()
        node.AddSegmentFromBinaryLabelmapRepresentation(image, name, [channel / 255 for channel in color], name)
        segment = node.GetSegmentation().GetSegment(name)
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), _terminology(description))
    node.CreateDefaultDisplayNodes()
    node.CreateClosedSurfaceRepresentation()  # for the 3D view
    return node


def _terminology(description) -> str:
    """Slicer's terminology entry: context, category, type and empty modifiers and region."""
    codes = [description.segmented_property_category, description.segmented_property_type]
    parts = [f"{code.scheme_designator}^{code.value}^{code.meaning}" for code in codes]
    return "~".join(["Segmentation category and type - DICOM master list", *parts, "^^", "", "^^", "^^"])


def show_result(loaded: Loaded, result, prediction: Prediction) -> None:
    """Have Slicer open the scene with the tumour in the slice views and the chart beside them."""
    slicer, scene = _slicer(), loaded.scene
    selection = scene.AddNewNodeByClass("vtkMRMLSelectionNode")
    selection.SetActiveVolumeID(loaded.volume.GetID())
    selection.SetActivePlotChartID(result.chart.GetID())
    selection.SetActiveTableID(result.summary.GetID())
    layout = _singleton(scene, "vtkMRMLLayoutNode", "vtkMRMLLayoutNode")
    # Only Slicer has the layouts' descriptions; without one, MRML complains. It is not saved, the number is.
    layout.AddLayoutDescription(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView, "<layout/>")
    layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
    plot = _singleton(scene, "vtkMRMLPlotViewNode", "PlotView1")
    plot.SetLayoutName("PlotView1")
    plot.SetPlotChartNodeID(result.chart.GetID())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    for name, orientation, color in _SLICE_VIEWS:
        view = _singleton(scene, "vtkMRMLSliceNode", name)
        view.SetLayoutName(name)
        view.SetLayoutLabel(name[0])
        view.SetLayoutColor(*color)
        view.SetOrientation(orientation)
        view.SetDimensions(360, 360, 1)
        view.SetFieldOfView(360, 360, 1)
        view.JumpSliceByOffsetting(*(float(value) for value in prediction.slices.center_ras[0]))
        composite = _singleton(scene, "vtkMRMLSliceCompositeNode", name)
        composite.SetLayoutName(name)
        composite.SetBackgroundVolumeID(loaded.volume.GetID())


def _singleton(scene, class_name: str, tag: str):
    """A node that Slicer, when it loads the scene, takes for its own of that tag."""
    node = scene.CreateNodeByClass(class_name)
    node.SetName(tag)
    node.SetSingletonTag(tag)
    added = scene.AddNode(node)
    node.UnRegister(None)
    return added


def save_scene(scene, path: Path) -> None:
    """Write the scene as .mrb, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent.resolve()) as folder:  # MRML wants full paths
        part = Path(folder) / path.name
        if not scene.WriteToMRB(str(part)) or not part.is_file():
            raise CNNSurvivalError(f"The scene '{path}' cannot be written; free some space or choose another folder.")
        part.replace(path)


def _vtk_matrix(array):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, dtype=float).ravel())
    return matrix


def _vtk_image(array: np.ndarray, image):
    """Give the image the voxels [k, j, i], as a copy."""
    from vtk.util.numpy_support import numpy_to_vtk

    image.SetDimensions(array.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    return image


def _slicer():
    try:
        import slicer
    except ImportError as error:
        raise CNNSurvivalError(
            "The demo needs slicer-core, which is not installed; run 'make demo', or 'pip install slicer-core'."
        ) from error
    return slicer


if __name__ == "__main__":
    sys.exit(main())
