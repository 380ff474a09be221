"""Real MRML nodes in, real MRML nodes out; without a Slicer application."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core (pip install slicer-core)")
vtk = pytest.importorskip("vtk")
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy  # noqa: E402

from bundle_maker import bundle_info_2, random_weights  # noqa: E402
from CNNSurvivalLib.bundle import save_bundle  # noqa: E402
from CNNSurvivalLib.errors import Cancelled, CNNSurvivalError  # noqa: E402
from CNNSurvivalLib.mrml.comparison import write_comparison  # noqa: E402
from CNNSurvivalLib.mrml.explanation import find_explanation, sentence_of, write_explanation  # noqa: E402
from CNNSurvivalLib.mrml.guesses import (  # noqa: E402
    guess_segment,
    guess_segmentation,
    guess_tumour,
    guess_volume,
    inputs_of,
    studies,
    tumour_score,
)
from CNNSurvivalLib.mrml.inputs import (  # noqa: E402
    _grid,
    ct_and_mask,
    grid_of,
    patient_age,
    patient_name,
    predict_nodes,
    segment_checksum,
    words_of_the_panel,
)
from CNNSurvivalLib.mrml.layout import ChartLayout  # noqa: E402
from CNNSurvivalLib.mrml.nodes import nodes_of  # noqa: E402
from CNNSurvivalLib.mrml.overlay import MapOverlay  # noqa: E402
from CNNSurvivalLib.mrml.results import all_results, find_result, label_of, read_prediction, read_record, write_result  # noqa: E402
from CNNSurvivalLib.mrml.stale import SegmentNow, Wanted, why_stale  # noqa: E402
from CNNSurvivalLib.mrml.tumour import NEOPLASM_PRIMARY, editor_node, has_nothing_drawn, new_tumour  # noqa: E402
from CNNSurvivalLib.mrml.views import is_shown, shows_slice  # noqa: E402
from CNNSurvivalLib.prediction import predict, revise  # noqa: E402
from CNNSurvivalLib.slices import axial_geometry  # noqa: E402

SHAPE, SPACING = (20, 80, 90), (3.0, 1.0, 1.0)  # [k, j, i], mm
CENTER = np.array([-45.0, -40.0, 28.5])  # of the volume, RAS mm
RADIUS = 18.0


@pytest.fixture
def scene():
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()  # registers the segmentation converters, as Slicer does
    logic.SetMRMLScene(scene)
    yield scene
    scene.Clear(1)


def matrix(array):
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(array, float).ravel())
    return result


def ras_of(shape, ijk_to_ras):
    """RAS of every voxel centre, [k, j, i, 3]."""
    k, j, i = np.indices(shape)
    return np.stack([i, j, k], axis=-1) @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]


def ball(shape=SHAPE, ijk_to_ras=None, center=CENTER, radius=RADIUS):
    ijk_to_ras = axial_geometry(SPACING) if ijk_to_ras is None else ijk_to_ras
    return (np.linalg.norm(ras_of(shape, ijk_to_ras) - center, axis=-1) <= radius).astype(np.uint8)


def image_of(array, image=None):
    image = vtk.vtkImageData() if image is None else image
    image.SetDimensions(array.shape[2], array.shape[1], array.shape[0])
    components = array.shape[3] if array.ndim == 4 else 1
    scalars = numpy_to_vtk(np.ascontiguousarray(array).reshape(-1, components), deep=True)
    image.GetPointData().SetScalars(scalars)
    return image


def add_volume(scene, hu=None, ijk_to_ras=None, name="CT", class_name="vtkMRMLScalarVolumeNode"):
    node = scene.AddNewNodeByClass(class_name, name)
    if hu is None:
        rng = np.random.default_rng(0)
        hu = np.where(ball(), 40, -850) + rng.normal(0, 20, SHAPE)
        hu = hu.astype(np.int16)
    node.SetAndObserveImageData(image_of(hu))
    node.SetIJKToRASMatrix(matrix(axial_geometry(SPACING) if ijk_to_ras is None else ijk_to_ras))
    return node


def oriented(array, ijk_to_ras, first=(0, 0, 0)):
    """vtkOrientedImageData whose voxel [0, 0, 0] has the IJK index ``first``."""
    image = image_of(array, slicer.vtkOrientedImageData())
    extent = [(f, f + n - 1) for f, n in zip(first, array.shape[::-1])]
    image.SetExtent(*[int(limit) for pair in extent for limit in pair])
    image.SetGeometryFromImageToWorldMatrix(matrix(ijk_to_ras))
    return image


def add_segmentation(scene, masks=None, ijk_to_ras=None, volume=None, name="Segmentation", first=(0, 0, 0)):
    """masks: {segment name: uint8 [k, j, i]}; a ball by default. Segment IDs are the names."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    ijk_to_ras = axial_geometry(SPACING) if ijk_to_ras is None else ijk_to_ras
    for segment_name, mask in (masks or {"Tumour": ball()}).items():
        image = oriented(mask, ijk_to_ras, first)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, segment_name, [1, 0, 0], segment_name)
    if volume is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node


def add_surface(scene, center=CENTER, radius=RADIUS, name="Surface"):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    source = vtk.vtkSphereSource()
    source.SetCenter(*center)
    source.SetRadius(radius)
    source.SetThetaResolution(60)
    source.SetPhiResolution(60)
    source.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(source.GetOutput(), "Tumour", [1, 0, 0], "Tumour")
    return node


def put_under(scene, node, array, name="Move"):
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    transform.SetMatrixTransformToParent(matrix(array))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def put_under_warp(scene, node, shift, name="Warp"):
    """A spline, so non-linear for Slicer, that moves everything by ``shift``, so the answer is known."""
    corners = np.array([[r, a, s] for r in (-200, 200) for a in (-200, 200) for s in (-200, 200)], float)
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    for setter, points in ((spline.SetSourceLandmarks, corners), (spline.SetTargetLandmarks, corners + shift)):
        landmarks = vtk.vtkPoints()
        for point in points:
            landmarks.InsertNextPoint(*point)
        setter(landmarks)
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", name)
    transform.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def rotation(degrees, axis=2):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    result = np.eye(4)
    a, b = [n for n in range(3) if n != axis]
    result[a, a], result[a, b], result[b, a], result[b, b] = c, -s, s, c
    return result


def translation(*shift):
    result = np.eye(4)
    result[:3, 3] = shift
    return result


def snapshot(scene):
    """Everything that a user would notice of the nodes in the scene."""
    scene_xml = []
    for n in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(n)
        text = [node.GetID(), node.GetName(), node.GetMTime()]
        if node.IsA("vtkMRMLSegmentationNode"):
            segmentation = node.GetSegmentation()
            text.append(segmentation.GetMTime())
            for s in range(segmentation.GetNumberOfSegments()):
                segment = segmentation.GetNthSegment(s)
                for kind in ("Binary labelmap", "Closed surface"):
                    data = segment.GetRepresentation(kind)
                    text.append((kind, data.GetMTime() if data else None))
        scene_xml.append(tuple(text))
    return scene_xml


def dice(a, b):
    a, b = np.asarray(a) > 0, np.asarray(b) > 0
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# --- CT and mask ----------------------------------------------------------------------------------------------


def test_same_grid_is_identical_voxel_for_voxel(scene):
    volume = add_volume(scene)
    mask = ball()
    segmentation = add_segmentation(scene, {"Tumour": mask}, volume=volume)
    before = snapshot(scene)
    hu, found, ijk_to_ras, warnings = ct_and_mask(volume, segmentation, "Tumour")
    assert np.array_equal(found, mask) and found.dtype == np.uint8
    assert np.array_equal(hu, vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars()).reshape(SHAPE))
    assert np.allclose(ijk_to_ras, axial_geometry(SPACING)) and warnings == []
    assert snapshot(scene) == before


def test_labelmap_that_covers_only_its_segment(scene):
    """What Slicer keeps after drawing: an extent that begins somewhere inside the CT."""
    volume, mask = add_volume(scene), ball()
    box = np.s_[5:15, 10:70, 20:75]
    segmentation = add_segmentation(scene, {"Tumour": mask[box]}, first=(20, 10, 5))
    expected = np.zeros_like(mask)
    expected[box] = mask[box]
    _, found, _, warnings = ct_and_mask(volume, segmentation, "Tumour")
    assert np.array_equal(found, expected) and warnings == []


def test_shared_labelmap_gives_each_segment_its_own_voxels(scene):
    volume = add_volume(scene)
    tumour, lung = ball(), (ball(radius=30) > ball()).astype(np.uint8)
    node = add_segmentation(scene, {"Tumour": tumour, "Lung": lung})
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    segments = node.GetSegmentation()
    assert segments.GetNumberOfLayers() == 1
    assert len({segments.GetSegment(s).GetLabelValue() for s in ("Tumour", "Lung")}) == 2
    before = snapshot(scene)
    for name, expected in (("Tumour", tumour), ("Lung", lung)):
        _, found, _, _ = ct_and_mask(volume, node, name)
        assert np.array_equal(found, expected), name
    assert snapshot(scene) == before


def test_overlapping_segments_in_layers(scene):
    volume = add_volume(scene)
    masks = {"Tumour": ball(), "Lung": ball(radius=30)}
    segmentation = add_segmentation(scene, masks)
    segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert segmentation.GetSegmentation().GetNumberOfLayers() == 2
    for name, expected in masks.items():
        assert np.array_equal(ct_and_mask(volume, segmentation, name)[1], expected)


@pytest.mark.parametrize(
    ("spacing", "least_dice"), [((1.0, 0.5, 0.5), 0.98), ((4.0, 2.0, 2.0), 0.93), ((3.0, 0.7, 1.3), 0.95)]
)
def test_finer_and_coarser_segmentation(scene, spacing, least_dice):
    volume = add_volume(scene)
    shape = tuple(int(np.ceil(n * s / t)) + 4 for n, s, t in zip(SHAPE, SPACING, spacing))
    geometry = axial_geometry(spacing, (1.3, 0.4, -2.1))  # shifted by parts of a voxel, too
    segmentation = add_segmentation(scene, {"Tumour": ball(shape, geometry)}, geometry)
    _, found, _, warnings = ct_and_mask(volume, segmentation, "Tumour")
    expected = ball()
    assert int(found.sum()) == pytest.approx(int(expected.sum()), rel=0.03)
    assert dice(found, expected) > least_dice
    assert warnings == []


def test_segment_partly_outside_is_cut_and_said_so(scene):
    volume = add_volume(scene)
    center = CENTER + [0, 0, 30]  # the CT ends 30 mm above its centre
    shape, geometry = (40, 80, 90), axial_geometry(SPACING)
    segmentation = add_segmentation(scene, {"Tumour": ball(shape, geometry, center)}, geometry)
    _, found, _, warnings = ct_and_mask(volume, segmentation, "Tumour")
    whole = ball(shape, geometry, center)
    assert np.array_equal(found, whole[:20])
    lost = whole[20:].sum() / whole.sum()
    assert len(warnings) == 1 and f"{lost:.0%} of the segment 'Tumour' lies outside the CT 'CT'" in warnings[0]


@pytest.mark.parametrize("distance", [80, 1000])
def test_segment_elsewhere_is_an_error(scene, distance):
    volume = add_volume(scene)
    geometry = axial_geometry(SPACING, (0, 0, distance))
    segmentation = add_segmentation(scene, {"Tumour": ball(SHAPE, geometry, CENTER + [0, 0, distance])}, geometry)
    with pytest.raises(CNNSurvivalError, match="'Tumour' lies entirely outside the CT"):
        ct_and_mask(volume, segmentation, "Tumour")


def test_segment_thinner_than_the_voxels(scene):
    volume = add_volume(scene)
    geometry = axial_geometry((0.1, 0.1, 0.1), (-45.4, -40.4, 28.9))
    segmentation = add_segmentation(scene, {"Tumour": np.ones((1, 2, 2), np.uint8)}, geometry)
    with pytest.raises(CNNSurvivalError, match="so thin that it misses every voxel"):
        ct_and_mask(volume, segmentation, "Tumour")


def test_closed_surface_is_rasterised_on_a_copy(scene):
    volume, segmentation = add_volume(scene), add_surface(scene)
    before = snapshot(scene)
    _, found, _, warnings = ct_and_mask(volume, segmentation, "Tumour")
    assert dice(found, ball()) > 0.97 and warnings == []
    assert int(found.sum()) * 3 == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.03)
    assert snapshot(scene) == before
    assert segmentation.GetSegmentation().GetSegment("Tumour").GetRepresentation("Binary labelmap") is None


def test_closed_surface_under_transforms_and_beyond_the_ct(scene):
    volume, segmentation = add_volume(scene), add_surface(scene)
    put_under(scene, segmentation, translation(0, 0, 30))
    _, found, _, warnings = ct_and_mask(volume, segmentation, "Tumour")
    assert dice(found, ball(center=CENTER + [0, 0, 30])) > 0.97
    assert len(warnings) == 1 and "lies outside" in warnings[0]
    put_under(scene, segmentation, translation(0, 0, 300))
    with pytest.raises(CNNSurvivalError, match="entirely outside"):
        ct_and_mask(volume, segmentation, "Tumour")


def test_source_representation_counts_not_a_derived_labelmap(scene):
    """A coarse labelmap that Slicer derived for display must not replace the surface it came from."""
    volume, segmentation = add_volume(scene), add_surface(scene)
    coarse = axial_geometry((12, 8, 8), (20, 20, -20))
    reference = _grid(matrix(coarse), [(0, 15), (0, 15), (0, 7)])
    segmentation.GetSegmentation().SetConversionParameter(
        "Reference image geometry", slicer.vtkSegmentationConverter.SerializeImageGeometry(reference)
    )
    assert segmentation.CreateBinaryLabelmapRepresentation()
    assert dice(ct_and_mask(volume, segmentation, "Tumour")[1], ball()) > 0.97


def test_volume_and_segmentation_under_the_same_transform(scene):
    volume, segmentation = add_volume(scene), add_segmentation(scene)
    move = rotation(7) @ translation(5, -9, 13)
    transform = put_under(scene, volume, move)
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    _, found, ijk_to_ras, warnings = ct_and_mask(volume, segmentation, "Tumour")
    assert np.array_equal(found, ball()) and warnings == []
    assert np.allclose(ijk_to_ras, move @ axial_geometry(SPACING))


def test_different_linear_transforms(scene):
    """Drawn in another frame: segmentation registered to the CT by one transform, the CT moved by another."""
    volume = add_volume(scene)
    put_under(scene, volume, rotation(10, axis=0) @ translation(0, 4, 9), "CT to room")
    registration = rotation(25) @ translation(11, 2, -6)
    # The ball as drawn: where the inverse of (CT to room)^-1 @ registration puts the ball in the CT's own RAS.
    to_ct = np.linalg.inv(rotation(10, axis=0) @ translation(0, 4, 9)) @ registration
    drawn_center = (np.linalg.inv(to_ct) @ [*CENTER, 1])[:3]
    geometry = axial_geometry((1.0, 1.0, 1.0), drawn_center + [30, 30, -30])
    segmentation = add_segmentation(scene, {"Tumour": ball((60, 60, 60), geometry, drawn_center)}, geometry)
    put_under(scene, segmentation, registration, "Drawn to room")
    before = snapshot(scene)
    _, found, _, warnings = ct_and_mask(volume, segmentation, "Tumour")
    assert dice(found, ball()) > 0.96 and warnings == []
    assert snapshot(scene) == before


def test_scaling_transform_on_the_segmentation(scene):
    volume = add_volume(scene)
    geometry = axial_geometry((0.5, 0.5, 0.5), CENTER / 4 + [10, 10, -10])
    segmentation = add_segmentation(scene, {"Tumour": ball((40, 40, 40), geometry, CENTER / 4, RADIUS / 4)}, geometry)
    put_under(scene, segmentation, np.diag([4.0, 4.0, 4.0, 1.0]))
    assert dice(ct_and_mask(volume, segmentation, "Tumour")[1], ball()) > 0.95


def test_non_linear_transform_on_the_segmentation(scene):
    volume = add_volume(scene)
    shift = np.array([6.0, -4.0, 9.0])
    for segmentation in (
        add_segmentation(scene, {"Tumour": ball(center=CENTER - shift)}),
        add_surface(scene, CENTER - shift),
    ):
        transform = put_under_warp(scene, segmentation, shift)
        assert not transform.IsTransformToWorldLinear()
        before = snapshot(scene)
        _, found, _, _ = ct_and_mask(volume, segmentation, "Tumour")
        assert dice(found, ball()) > 0.96
        assert snapshot(scene) == before


def test_transforms_that_the_ct_cannot_have(scene):
    volume, segmentation = add_volume(scene), add_segmentation(scene)
    put_under_warp(scene, volume, np.array([1.0, 2, 3]), "Acquisition")
    with pytest.raises(CNNSurvivalError, match="'CT' is under the non-linear transform 'Acquisition'; harden"):
        ct_and_mask(volume, segmentation, "Tumour")
    shear = np.eye(4)
    shear[1, 2] = 0.3
    put_under(scene, volume, shear, "Tilt")
    with pytest.raises(CNNSurvivalError, match="'Tilt' shears the CT 'CT'"):
        ct_and_mask(volume, segmentation, "Tumour")


def test_scaled_ct_is_used_with_a_warning(scene):
    volume, segmentation = add_volume(scene), add_segmentation(scene)
    transform = put_under(scene, volume, np.diag([1.1, 1.1, 1.1, 1]), "Grow")
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    _, found, ijk_to_ras, warnings = ct_and_mask(volume, segmentation, "Tumour")
    assert np.array_equal(found, ball()) and np.linalg.norm(ijk_to_ras[:3, 0]) == pytest.approx(1.1)
    assert len(warnings) == 1 and "'Grow' scales the CT 'CT' by up to 10%" in warnings[0]


SAGITTAL = np.array([[0, 0, 3.0, -60], [-1, 0, 0, 10], [0, -1, 0, 60], [0, 0, 0, 1]], float)  # k right, i back, j down
FLIPPED = np.diag([1.0, 1.0, -3.0, 1.0])
FLIPPED[:3, 3] = [-89, -79, 57]
OBLIQUE = translation(-3, 8, 5) @ rotation(8, axis=0) @ rotation(5) @ axial_geometry(SPACING)


@pytest.mark.parametrize("geometry", [SAGITTAL, FLIPPED, OBLIQUE], ids=["sagittal", "flipped", "oblique"])
def test_any_acquisition_and_another_grid_for_the_segment(scene, geometry):
    center = ras_of(SHAPE, geometry).reshape(-1, 3).mean(axis=0)
    radius = 17.0
    expected = ball(SHAPE, geometry, center, radius)
    assert expected.sum() > 1000
    volume = add_volume(scene, np.where(expected, 40, -850).astype(np.int16), geometry)
    same = add_segmentation(scene, {"Tumour": expected}, geometry)
    _, found, ijk_to_ras, _ = ct_and_mask(volume, same, "Tumour")
    assert np.array_equal(found, expected) and np.allclose(ijk_to_ras, geometry)
    axial = axial_geometry((1.5, 0.8, 0.8), center + [40, 40, -40])
    other = add_segmentation(scene, {"Tumour": ball((60, 100, 100), axial, center, radius)}, axial)
    assert dice(ct_and_mask(volume, other, "Tumour")[1], expected) > 0.95
    assert dice(ct_and_mask(volume, add_surface(scene, center, radius), "Tumour")[1], expected) > 0.96


def test_one_full_size_copy_at_most(scene):
    shape = (100, 200, 200)
    geometry = axial_geometry((1.0, 1.0, 1.0))
    center = [-100, -100, 50]
    mask = ball(shape, geometry, center, 20)
    volume = add_volume(scene, np.zeros(shape, np.int16), geometry)
    segmentation = add_segmentation(scene, {"Tumour": mask}, geometry)
    tracemalloc.start()
    ct_and_mask(volume, segmentation, "Tumour")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.15 * mask.nbytes


# --- Bad input ------------------------------------------------------------------------------------------------


def test_missing_inputs(scene):
    volume, segmentation = add_volume(scene), add_segmentation(scene)
    for arguments, sentence in (
        ((None, segmentation, "Tumour"), "No CT is selected"),
        ((volume, None, "Tumour"), "No segmentation is selected"),
        ((volume, segmentation, "Nose"), "has no segment with the ID 'Nose'; choose one of: 'Tumour'"),
        ((volume, segmentation, ""), "choose one of: 'Tumour'"),
        ((volume, volume, "Tumour"), "'CT' is not a segmentation"),
        ((segmentation, segmentation, "Tumour"), "is not a single grey-level volume"),
    ):
        with pytest.raises(CNNSurvivalError, match=sentence):
            ct_and_mask(*arguments)


def test_several_segments_are_listed(scene):
    segmentation = add_segmentation(scene, {"Heart": ball(), "GTVp": ball()})
    with pytest.raises(CNNSurvivalError, match="'Heart', 'GTVp'"):
        ct_and_mask(add_volume(scene), segmentation, "GTVn")


def test_volumes_that_are_no_ct(scene):
    segmentation = add_segmentation(scene)
    colour = np.zeros((*SHAPE, 3), np.uint8)
    for volume, sentence in (
        (add_volume(scene, colour, name="Photo", class_name="vtkMRMLVectorVolumeNode"), "'Photo' has 3 values per"),
        (add_volume(scene, ball(), name="Labels", class_name="vtkMRMLLabelMapVolumeNode"), "'Labels' is a label map"),
        (scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing"), "'Nothing' holds no image"),
        (scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4DCT"), "'4DCT' is not a single grey-level volume"),
    ):
        with pytest.raises(CNNSurvivalError, match=sentence):
            ct_and_mask(volume, segmentation, "Tumour")


def test_empty_segments(scene):
    volume = add_volume(scene)
    segmentation = add_segmentation(scene, {"Zeros": np.zeros(SHAPE, np.uint8), "Tumour": ball()})
    segmentation.GetSegmentation().AddEmptySegment("New", "New")
    surface = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Surfaces")
    surface.GetSegmentation().SetSourceRepresentationName("Closed surface")
    surface.AddSegmentFromClosedSurfaceRepresentation(vtk.vtkPolyData(), "Hollow", [1, 0, 0], "Hollow")
    for node, name in ((segmentation, "Zeros"), (segmentation, "New"), (surface, "Hollow")):
        with pytest.raises(CNNSurvivalError, match=f"The segment '{name}' is empty"):
            ct_and_mask(volume, node, name)
    nothing = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Nothing")
    with pytest.raises(CNNSurvivalError, match="'Nothing' has no segments"):
        ct_and_mask(volume, nothing, "")


# --- First guess ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Lung_Left", "Heart", "GTVp", "GTVn1"], "GTVp"),
        (["GTVn", "GTV-1"], "GTV-1"),
        (["Lungs-GTV", "GTV", "PTV"], "GTV"),
        (["Lungs minus GTV", "Lungs", "Heart"], ""),
        (["Lung_L-GTV", "PTV", "GTV_node"], "GTV_node"),
        (["Left lung - tumor", "Left lung"], "Left lung - tumor"),
        (["Non-tumour", "Tumour bed margin"], ""),
        (["pancreas", "pancreatic_tumour"], "pancreatic_tumour"),
        (["Lung", "Neoplasm, Primary", "Spinal cord"], "Neoplasm, Primary"),
        (["lesionRUL", "lung"], "lesionRUL"),
        (["Body", "PDAC"], "PDAC"),
        (["Nodule 1", "Lung tumor"], "Lung tumor"),
        (["LungTumor", "Lung"], "LungTumor"),
        (["Lung"], ""),
        (["peritumoral ring", "Segment_2"], ""),
        (["Segment_1"], "Segment_1"),
        (["Segment_1", "Segment_2"], ""),
        (["CTV", "PTV_60"], "CTV"),
        ([], ""),
    ],
)
def test_guess_segment_by_name(scene, names, expected):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for name in names:
        node.GetSegmentation().AddEmptySegment(name, name)
    assert guess_segment(node) == expected


# Names as they come from other software, the better one first. RTSTRUCT: AAPM TG-263, DAHANCA, NSCLC-Radiomics (GTV-1),
# Head-Neck-Radiomics-HN1 (GTV-1 the primary, GTV-2 the node), HECKTOR. TotalSegmentator: tasks lung_nodules and
# liver_vessels. nnU-Net: Medical Segmentation Decathlon, KiTS. MONAI: VISTA3D and Auto3DSeg.
BETTER = [
    ("GTVp", "GTVn"),
    ("GTVp_CT1PRE", "GTVp1_margin"),
    ("GTV_p1", "GTV"),
    ("GTV-T", "GTV-N"),
    ("iGTVp", "ITV"),
    ("GTV Primary", "GTV-1"),
    ("GTV_Prim_RT", "GTV_LN"),
    ("GTV-1", "GTV-2"),
    ("GTV1", "GTV2"),
    ("GTV", "GTV-10"),
    ("iGTV_RUL", "GTV_N1"),
    ("zGTV", "CTV"),
    ("GTV^Lung", "Lungs-GTV"),
    ("GTV-2", "GTV1n"),
    ("GTV", "nGTV"),
    ("GTV_nodule", "GTV_node"),
    ("GTV-1", "lung_nodules"),
    ("GTVn", "GTV+5mm"),
    ("GTVnd", "CTVp"),
    ("CTV", "PTV_GTV"),
    ("lung_nodules", "lung"),
    ("lung_nodules", "lymph_node"),
    ("liver_tumor", "liver_vessels"),
    ("hepatic tumor", "hepatic vessel"),
    ("lung tumor", "bone lesion"),
    ("cancer", "pancreas"),
    ("pancreas_tumor", "pancreas"),
    ("tumor", "cyst"),
    ("colon cancer primaries", "colon"),
    ("Neoplasm, Primary", "Neoplasm"),
    ("Neoplasm", "Neoplasm, Secondary"),
    ("Lesion 1", "Metastasis 1"),
    ("Mass", "Metastasis"),
]
NEVER = [
    "PTV", "PTV_GTV", "Lungs-GTV", "Lung_L-GTV", "LUNG TOTAL-iGTV", "Lungs-IGTV", "Lung_Both-GTVp", "BODY-PTV",
    "GTV+5mm", "GTVp+3mm", "GTV_ring", "Ring_GTV", "tumor bed", "peritumoral", "avoid_GTV", "lung", "heart",
    "lung_upper_lobe_left", "kidney_cyst_left", "pleural_effusion", "lymph_node", "hepatic vessel", "edema",
    "esophagus", "Segment_1",
]  # fmt: skip


@pytest.mark.parametrize(("better", "worse"), BETTER)
def test_names_of_other_software(better, worse):
    assert tumour_score(better) > tumour_score(worse)


@pytest.mark.parametrize("name", NEVER)
def test_names_that_are_no_tumour(name):
    assert tumour_score(name) == 0


def test_terminology_counts_where_the_name_says_nothing():
    assert tumour_score("Segment_1", "Neoplasm, Primary") == tumour_score("Neoplasm, Primary")
    assert tumour_score("A", "Neoplasm") > tumour_score("A", "Neoplasm, Secondary") > 0
    assert tumour_score("Lungs-GTV", "Neoplasm") == 0


def test_guess_segment_by_terminology(scene):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    kinds = {"A": "85756007^Tissue", "B": "4147007^Mass", "C": "39607008^Lung"}
    for name, kind in kinds.items():
        node.GetSegmentation().AddEmptySegment(name, name)
        node.GetSegmentation().GetSegment(name).SetTag(
            slicer.vtkSegment.GetTerminologyEntryTagName(),
            "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered "
            f"Structure~SCT^{kind}~^^~Anatomic codes - DICOM master list~SCT^39607008^Lung~^^",
        )
    assert guess_segment(node) == "B"
    assert guess_segment(None) == ""


def test_guess_nodes_that_belong_together(scene):
    first, second = add_volume(scene, name="Old CT"), add_volume(scene, name="New CT")
    add_segmentation(scene, {"Lung": ball()}, volume=second, name="Organs")
    tumour = add_segmentation(scene, {"GTVp": ball()}, volume=second, name="Targets")
    stray = add_segmentation(scene, {"Tumour": ball()}, name="Stray")
    assert guess_volume(scene) is second
    assert guess_segmentation(scene, second) is tumour
    assert guess_segmentation(scene, first) is None  # the stray one may be of either CT, the others are the second's
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    for node in (first, stray):
        hierarchy.CreateItem(study, node)
    assert guess_segmentation(scene, first) is stray
    assert guess_tumour(scene, first) == (stray, "Tumour")


def test_another_cts_tumour_is_never_taken(scene):
    """A follow-up without a contour beside a baseline with one."""
    baseline, follow_up = add_volume(scene, name="CT 2024"), add_volume(scene, name="CT 2026")
    contour = add_segmentation(scene, volume=baseline, name="Contour 2024")
    assert guess_tumour(scene, follow_up) == (None, "") and inputs_of(follow_up) == (follow_up, None, "")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Both in one study")
    for node in (baseline, follow_up, contour):
        hierarchy.CreateItem(study, node)
    assert guess_tumour(scene, follow_up) == (None, "")
    assert guess_tumour(scene, baseline) == (contour, "Tumour")


def test_a_file_that_names_no_ct_belongs_to_the_ct_with_its_voxels(scene):
    other = axial_geometry((5.0, 0.8, 0.8))
    first, second = add_volume(scene, name="p1_ct"), add_volume(scene, name="p2_ct", ijk_to_ras=other)
    of_second = add_segmentation(scene, {"Segment_1": ball(ijk_to_ras=other)}, ijk_to_ras=other, name="p2_mask")
    sample = add_segmentation(scene, {"Tumour": ball()}, volume=first, name="Sample contours")
    assert guess_tumour(scene, second) == (of_second, "Segment_1")
    assert guess_tumour(scene, first) == (sample, "Tumour")
    assert dict((b, a) for a, b in studies(scene)) == {of_second: second, sample: first}
    inside = add_segmentation(scene, {"Tumour": ball()[5:15, 10:70, 12:80]}, first=(12, 10, 5), name="Cropped")
    scene.RemoveNode(sample)
    assert guess_tumour(scene, first) == (inside, "Tumour")
    shifted = axial_geometry(SPACING)
    shifted[0, 3] += 0.4
    scene.RemoveNode(inside)
    add_segmentation(scene, ijk_to_ras=shifted, name="Of another grid")
    assert guess_tumour(scene, first) == (None, "")


def test_a_segment_that_was_drawn_on_another_ct_is_predicted_with_a_warning(scene, tiny_bundle):
    baseline, follow_up = add_volume(scene, name="CT 2024"), add_volume(scene, name="CT 2026")
    contour = add_segmentation(scene, volume=baseline, name="Contour 2024")
    sentence = "The segmentation 'Contour 2024' was drawn on 'CT 2024', not on 'CT 2026'."
    assert sentence in predict_nodes(follow_up, contour, "Tumour", tiny_bundle).warnings
    assert predict_nodes(baseline, contour, "Tumour", tiny_bundle).input_warnings == ()


def test_guess_in_an_empty_scene(scene):
    assert guess_volume(scene) is None
    assert guess_segmentation(scene, None) is None
    assert guess_tumour(scene, None) == (None, "")
    add_volume(scene, ball(), class_name="vtkMRMLLabelMapVolumeNode")
    assert guess_volume(scene) is None


def test_inputs_of_a_chosen_node_belong_together(scene):
    """Right click on a node: another patient's tumour is never taken for it."""
    first, second = add_volume(scene, name="Old CT"), add_volume(scene, name="New CT")
    add_segmentation(scene, {"Lung": ball()}, volume=second, name="Organs")
    tumour = add_segmentation(scene, {"GTVn": ball(), "GTVp": ball()}, volume=second, name="Targets")
    assert inputs_of(second) == (second, tumour, "GTVp")
    assert inputs_of(tumour) == (second, tumour, "GTVp")
    assert inputs_of(first) == (first, None, "")
    stray = add_segmentation(scene, {"Tumour": ball()}, name="Stray")
    assert inputs_of(stray) == (None, stray, "Tumour")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    for node in (first, stray):
        hierarchy.CreateItem(study, node)
    assert inputs_of(first) == inputs_of(stray) == (first, stray, "Tumour")


def test_inputs_of_the_only_case_of_a_scene(scene):
    volume = add_volume(scene)
    assert inputs_of(volume) == (volume, None, "")
    segmentation = add_segmentation(scene, {"Tumour": ball()})
    assert inputs_of(volume) == inputs_of(segmentation) == (volume, segmentation, "Tumour")


# --- A new tumour ---------------------------------------------------------------------------------------------


def test_new_tumour_lies_on_the_ct(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    volume = add_volume(scene, name="Chest")
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.CreateItem(study, volume)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    volume.SetAndObserveTransformNodeID(transform.GetID())
    segmentation, segment_id = new_tumour(volume)
    assert segmentation.GetName() == "Chest tumour" and segmentation.GetTransformNodeID() == transform.GetID()
    assert inputs_of(volume) == (volume, segmentation, segment_id)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(segmentation)) == study
    assert has_nothing_drawn(segmentation, segment_id)
    assert not has_nothing_drawn(segmentation, "other") and not has_nothing_drawn(None, "")
    geometry = segmentation.GetSegmentation().GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    )
    grid = _grid(matrix(axial_geometry(SPACING)), [(0, n - 1) for n in SHAPE[::-1]])
    assert geometry == slicer.vtkSegmentationConverter.SerializeImageGeometry(grid)
    assert new_tumour(volume)[0].GetName() != segmentation.GetName()


def test_what_is_drawn_in_a_new_tumour_is_predicted_from(scene, tiny_bundle):
    volume = add_volume(scene)
    segmentation, segment_id = new_tumour(volume)
    with pytest.raises(CNNSurvivalError, match="The segment 'Tumour' is empty"):
        ct_and_mask(volume, segmentation, segment_id)
    before = predict_nodes(volume, draw(segmentation, segment_id, ball()), segment_id, tiny_bundle)
    assert not has_nothing_drawn(segmentation, segment_id)
    after = predict_nodes(volume, draw(segmentation, segment_id, ball(radius=10)), segment_id, tiny_bundle)
    assert after.volume_cc < before.volume_cc
    both = ball(radius=10) + ball(center=CENTER + [30, 0, 0], radius=9)
    largest = predict_nodes(volume, draw(segmentation, segment_id, both), segment_id, tiny_bundle, lesions="largest")
    np.testing.assert_array_equal(largest.survival, after.survival)


def draw(segmentation, segment_id, mask):
    """The segmentation, its segment replaced by the mask [k, j, i]."""
    labelmap = image_of(mask, slicer.vtkOrientedImageData())
    labelmap.SetGeometryFromImageToWorldMatrix(matrix(axial_geometry(SPACING)))
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    segment.AddRepresentation(name, labelmap)
    segment.SetLabelValue(1)
    return segmentation


def test_terminology_of_a_new_tumour(scene):
    """Its codes are those of Slicer's own list (DICOM CID 7150 and 7159), and the guess takes it for the tumour."""
    segmentation, segment_id = new_tumour(add_volume(scene))
    tag = vtk.reference("")
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), tag)
    parts = str(tag).split("~")
    assert str(tag) == NEOPLASM_PRIMARY and len(parts) == 7
    assert parts[0] == "Segmentation category and type - DICOM master list"
    assert parts[1:3] == ["SCT^49755003^Morphologically Altered Structure", "SCT^86049000^Neoplasm, Primary"]
    assert guess_segment(segmentation) == segment_id
    segment.SetName("X")
    assert guess_segment(segmentation) == segment_id


def test_the_editors_node_is_our_own_and_one(scene):
    core = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    node = editor_node(scene)
    assert node is not core and editor_node(scene) is node
    assert node.GetSingletonTag() == "CNNSurvival.SegmentEditor"


# --- Result ---------------------------------------------------------------------------------------------------


@pytest.fixture
def case(scene):
    volume = add_volume(scene)
    return scene, volume, add_segmentation(scene, {"Lung": ball(radius=30), "GTVp": ball()}, volume=volume)


def write(case, bundle, segment="GTVp", **options):
    scene, volume, segmentation = case
    prediction = predict_nodes(volume, segmentation, segment, bundle, **{"max_slices": 3, **options})
    return prediction, write_result(scene, prediction, volume, segmentation, segment)


def column(table_node, name):
    return vtk_to_numpy(table_node.GetTable().GetColumnByName(name))


def test_nodes_give_the_same_prediction_as_arrays(case, tiny_bundle):
    _, volume, segmentation = case
    prediction = predict_nodes(volume, segmentation, "GTVp", tiny_bundle)
    hu = vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars()).reshape(SHAPE)
    expected = predict(hu, ball(), axial_geometry(SPACING), tiny_bundle)
    assert np.array_equal(prediction.survival, expected.survival) and prediction.risk == expected.risk


def test_what_is_left_in_the_scene(case, tiny_bundle):
    prediction, result = write(case, tiny_bundle)
    assert all(node.GetScene() is case[0] for node in result)
    assert result.curve.GetName() == "CT GTVp: survival curve"
    months, survival = column(result.curve, "Months"), column(result.curve, "Survival")
    assert np.allclose(months, prediction.time_days / 30.4375, atol=0.01) and months[0] == 0
    assert np.allclose(survival, prediction.survival, atol=1e-4) and survival[0] == 1
    assert column(result.slices, "Rank").tolist() == list(range(1, len(prediction.slices) + 1))
    assert column(result.slices, "Slice (K)").tolist() == prediction.slices.slice_index.tolist()
    texts = {result.summary.GetCellText(row, 0): result.summary.GetCellText(row, 1) for row in range(5)}
    assert texts["Survival at 18 months"] == f"{1 - prediction.risk:.0%}"
    reference = column(result.reference, "Survival")
    assert reference[0] == 1 and np.all(np.diff(reference) <= 0)
    assert np.all(np.diff(column(result.reference, "Months")) >= 0)


def test_chart_shows_patient_band_and_reference(case, tiny_bundle):
    _, result = write(case, tiny_bundle)
    chart = result.chart
    shown = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    assert set(map(id, shown)) == set(map(id, result[4:8])) and len(shown) == 4
    for series in shown:
        table = series.GetTableNode().GetTable()
        assert table.GetColumnByName(series.GetXColumnName()) is not None
        assert table.GetColumnByName(series.GetYColumnName()) is not None
    assert chart.GetYAxisRange() == (0, 1) and chart.GetXAxisRange() == (0, 78)
    assert not chart.GetXAxisRangeAuto() and not chart.GetYAxisRangeAuto()
    assert chart.GetXAxisTitle() == "Months" and "research use only" in chart.GetYAxisTitle()
    # The legend lies over the curves, so its lines are short; the cohort's full name is the series' description.
    assert all(len(series.GetName()) < 30 for series in shown)
    assert result.reference_series.GetName() == "Reference cohort"
    assert result.reference_series.GetDescription() == "100 invented patients"


def test_record_says_where_the_result_comes_from(case, tiny_bundle):
    prediction, result = write(case, tiny_bundle)
    record = read_record(result)
    assert record["risk"] == prediction.risk and record["provenance"]["model"] == tiny_bundle.id
    assert record["inputs"] == {
        "volume": "CT", "segmentation": "Segmentation", "segment": "GTVp", "segment_id": "GTVp",
    }  # fmt: skip
    assert result.curve.GetAttribute("CNNSurvival.sha256") == tiny_bundle.sha256
    result.record.SetText("{damaged")
    assert read_record(result) == {}


def test_the_users_own_nodes_are_not_touched(case, tiny_bundle):
    scene = case[0]
    own = scene.AddNewNodeByClass("vtkMRMLTableNode", "CT GTVp: survival curve")
    before = snapshot(scene)
    write(case, tiny_bundle)
    write(case, tiny_bundle)
    after = snapshot(scene)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene).GetID()
    assert [entry for entry in after[: len(before)] if entry[0] != hierarchy] == [
        entry for entry in before if entry[0] != hierarchy
    ]
    assert own.GetNumberOfColumns() == 0


def test_again_updates_in_place(case, tiny_bundle):
    scene = case[0]
    _, first = write(case, tiny_bundle)
    first.survival_series.SetColor(1, 0, 1)
    count = scene.GetNumberOfNodes()
    prediction, second = write(case, tiny_bundle, max_slices=2)
    assert [node.GetID() for node in first] == [node.GetID() for node in second]
    assert scene.GetNumberOfNodes() == count
    assert second.slices.GetNumberOfRows() == 2 == len(prediction.slices)
    assert second.survival_series.GetColor() == (1, 0, 1)
    assert second.chart.GetNumberOfPlotSeriesNodes() == 4


def test_another_segment_gets_its_own_result(case, tiny_bundle):
    _, tumour = write(case, tiny_bundle)
    _, lung = write(case, tiny_bundle, "Lung")
    assert not {node.GetID() for node in tumour} & {node.GetID() for node in lung}
    assert find_result(*case, "GTVp").chart is tumour.chart
    assert find_result(*case, "Lung").chart is lung.chart
    assert find_result(*case, "") is None and find_result(case[0], None, case[2], "Lung") is None


def test_what_the_user_deleted_comes_back(case, tiny_bundle):
    scene = case[0]
    _, first = write(case, tiny_bundle)
    scene.RemoveNode(first.chart)
    assert find_result(*case, "GTVp") is None
    _, second = write(case, tiny_bundle)
    assert second.chart.GetScene() is scene and second.curve is first.curve
    assert second.chart.GetNumberOfPlotSeriesNodes() == 4


def test_result_lies_beside_the_ct(case, tiny_bundle):
    scene, volume, _ = case
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    hierarchy.CreateItem(study, volume)
    _, result = write(case, tiny_bundle)
    write(case, tiny_bundle)
    folders = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in result}
    assert len(folders) == 1
    folder = folders.pop()
    assert hierarchy.GetItemName(folder) == "CNNSurvival results: GTVp"
    assert hierarchy.GetItemParent(folder) == study
    children = vtk.vtkIdList()
    hierarchy.GetItemChildren(study, children)
    assert children.GetNumberOfIds() == 2  # the CT and one folder


def test_cancelled_or_failed_leaves_the_scene_as_it_was(case, tiny_bundle):
    scene = case[0]
    before = snapshot(scene)

    def stop(step, fraction):
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        write(case, tiny_bundle, progress=stop)
    with pytest.raises(CNNSurvivalError, match="No slice of the tumour has 100000"):
        write(case, tiny_bundle, min_roi_px=100000)
    assert snapshot(scene) == before


def test_inputs_removed_meanwhile(case, tiny_bundle):
    scene, volume, segmentation = case
    prediction = predict_nodes(volume, segmentation, "GTVp", tiny_bundle)
    segmentation.GetSegmentation().RemoveSegment("GTVp")
    before = snapshot(scene)
    with pytest.raises(Cancelled):
        write_result(scene, prediction, volume, segmentation, "GTVp")
    assert snapshot(scene) == before


def test_progress_names_the_steps(case, tiny_bundle):
    seen = []
    write(case, tiny_bundle, progress=lambda step, fraction: seen.append((step, fraction)))
    assert seen[0] == ("Reading CT and segment", 0.0)
    assert [f for _, f in seen] == sorted(f for _, f in seen)


def scene_that_unpacks(folder):
    """A scene that has, like Slicer's, a folder to unpack bundles in."""
    scene, manager, cache = slicer.vtkMRMLScene(), slicer.vtkDataIOManager(), slicer.vtkCacheManager()
    (folder / "cache").mkdir()
    cache.SetRemoteCacheDirectory(str(folder / "cache"))
    manager.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    return scene


@pytest.mark.parametrize("kind", ["mrb", "folder"])
def test_saved_and_reloaded(case, tiny_bundle, tmp_path, kind):
    scene = case[0]
    prediction, result = write(case, tiny_bundle)
    again = scene_that_unpacks(tmp_path)
    if kind == "mrb":
        path = str(tmp_path / "scene.mrb")
        assert scene.WriteToMRB(path)
        assert again.ReadFromMRB(path)
    else:
        folder = tmp_path / "scene"
        folder.mkdir()
        assert scene.SaveSceneToSlicerDataBundleDirectory(str(folder))
        again.SetURL(str(next(folder.rglob("*.mrml"))))
        assert again.Connect()
    new_volume = again.GetFirstNodeByName("CT")
    new_segmentation = again.GetFirstNodeByName("Segmentation")
    loaded = find_result(again, new_volume, new_segmentation, "GTVp")
    assert loaded is not None
    assert [node.GetName() for node in loaded] == [node.GetName() for node in result]
    assert loaded.chart.GetNumberOfPlotSeriesNodes() == 4
    assert loaded.survival_series.GetTableNode() is loaded.curve
    assert loaded.reference_series.GetTableNode() is loaded.reference
    assert np.allclose(column(loaded.curve, "Survival"), prediction.survival, atol=1e-4)
    assert read_record(loaded) == json.loads(result.record.GetText())
    _, found, _, _ = ct_and_mask(new_volume, new_segmentation, "GTVp")
    assert np.array_equal(found, ball())
    count = again.GetNumberOfNodes()
    write((again, new_volume, new_segmentation), tiny_bundle)
    assert again.GetNumberOfNodes() == count


def test_two_saved_scenes_in_one(case, tiny_bundle, tmp_path):
    """Imported into a scene where the node IDs are taken: each result stays with its own CT."""
    scene = case[0]
    write(case, tiny_bundle)
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    other = scene_that_unpacks(tmp_path)
    for _ in range(2):
        assert other.ReadFromMRB(path, False)
    volumes = [node for node in nodes_of(other, "vtkMRMLScalarVolumeNode")]
    segmentations = nodes_of(other, "vtkMRMLSegmentationNode")
    assert len(volumes) == len(segmentations) == 2
    results = [find_result(other, v, s, "GTVp") for v, s in zip(volumes, segmentations)]
    assert None not in results
    assert results[0].chart is not results[1].chart
    assert results[1].survival_series.GetTableNode() is results[1].curve


# --- Several results, and the map ------------------------------------------------------------------------------


def two_results(scene, bundle):
    volume = add_volume(scene)
    segmentation = add_segmentation(scene, {"Tumour": ball(), "Other": ball(radius=15)}, volume=volume)
    return volume, [
        write_result(scene, predict_nodes(volume, segmentation, name, bundle), volume, segmentation, name)
        for name in ("Tumour", "Other")
    ]


def test_a_result_can_be_restored(scene, tiny_bundle):
    _volume, results = two_results(scene, tiny_bundle)
    assert [label_of(result) for result in all_results(scene)] == ["CT Tumour", "CT Other"]
    back = read_prediction(results[0], [tiny_bundle])
    curve = vtk_to_numpy(results[0].curve.GetTable().GetColumnByName("Survival"))
    np.testing.assert_allclose(back.survival, curve, atol=5e-5)
    assert read_prediction(results[0], []) is None


def test_two_results_in_one_chart(scene, tiny_bundle):
    _volume, results = two_results(scene, tiny_bundle)
    chart = write_comparison(scene, *results)
    count = scene.GetNumberOfNodes()
    assert write_comparison(scene, *results) is chart and scene.GetNumberOfNodes() == count
    series = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    assert [node.GetName() for node in series] == ["CT Tumour", "CT Other", "Reference cohort"]
    assert series[1].GetTableNode() is results[1].curve
    assert len({tuple(node.GetColor()) for node in series}) == 3


@pytest.fixture
def layout(scene):
    """The node of Slicer's window layout, with the layouts that the tests use."""
    layout = slicer.vtkMRMLLayoutNode()
    layout.SetSingletonTag("vtkMRMLLayoutNode")
    for kind in (1, 2, layout.SlicerLayoutConventionalView, layout.SlicerLayoutFourUpView,
                 layout.SlicerLayoutConventionalPlotView, layout.SlicerLayoutFourUpPlotView, 501):  # fmt: skip
        layout.AddLayoutDescription(kind, "<layout/>")
    return scene.AddNode(layout)


def plots_logic(scene):
    logic = slicer.vtkSlicerPlotsLogic()
    logic.SetMRMLScene(scene)
    return logic


@pytest.mark.parametrize("kind", ["Conventional", "FourUp"])
def test_a_chart_is_shown_beside_the_slice_views_and_the_layout_comes_back(scene, layout, kind):
    before, wanted = (getattr(layout, f"SlicerLayout{kind}{view}") for view in ("View", "PlotView"))
    chart, charts = scene.AddNewNodeByClass("vtkMRMLPlotChartNode"), ChartLayout()
    layout.SetViewArrangement(before)
    assert not charts.can_go_back(scene)
    charts.show(scene, chart, plots_logic(scene))
    assert layout.GetViewArrangement() == wanted and charts.can_go_back(scene)
    charts.go_back(scene)
    assert layout.GetViewArrangement() == before and not charts.can_go_back(scene)


def test_a_layout_that_the_user_chose_is_kept(scene, layout):
    chart, charts = scene.AddNewNodeByClass("vtkMRMLPlotChartNode"), ChartLayout()
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    charts.show(scene, chart, plots_logic(scene))
    layout.SetViewArrangement(layout.SlicerLayoutConventionalView)  # by the user
    charts.go_back(scene)
    assert layout.GetViewArrangement() == layout.SlicerLayoutConventionalView
    layout.SetViewArrangement(501)  # one of the user's own, with a plot view
    view = scene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    view.SetMappedInLayout(1)
    charts.show(scene, chart, plots_logic(scene))
    assert layout.GetViewArrangement() == 501 and not charts.can_go_back(scene)
    assert view.GetPlotChartNodeID() == chart.GetID()


def test_the_map_lies_on_the_ct_and_is_replaced(scene, tiny_bundle):
    volume, results = two_results(scene, tiny_bundle)
    put_under(scene, volume, np.eye(4))
    shape, _ = grid_of(volume)
    values = np.zeros(shape, dtype=np.float32)
    values[10, 40, 45] = -3.5
    node = write_explanation(scene, volume, values, results[0])
    assert find_explanation(scene, results[0]) is node
    assert find_explanation(scene, results[1]) is None
    found = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()).reshape(shape)
    np.testing.assert_array_equal(found, values)
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    assert node.GetSpacing() == pytest.approx(volume.GetSpacing())
    assert guess_volume(scene) is volume
    segmentation = results[0].record.GetNodeReference("CNNSurvival.segmentation")
    fewer = predict_nodes(volume, segmentation, "Tumour", tiny_bundle, max_slices=1)
    write_result(scene, fewer, volume, segmentation, "Tumour")
    assert find_explanation(scene, results[0]) is None, "it was made of other slices"
    count = scene.GetNumberOfNodes()
    assert write_explanation(scene, volume, -values, results[0]) is node
    assert scene.GetNumberOfNodes() == count
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (-3.5, 3.5)
    scene.RemoveNode(volume)
    with pytest.raises(Cancelled):
        write_explanation(scene, volume, values, results[0])


def test_the_patients_name_is_looked_up_only_where_it_is(scene):
    volume = add_volume(scene)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert patient_name(volume) is None
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Doe^Jane")
    study = hierarchy.CreateStudyItem(patient, "CT")
    hierarchy.CreateItem(study, volume)
    assert patient_name(volume) == "Doe^Jane"


# --- Populations, covariates, the interval and the mark ---------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle_2(tmp_path_factory):
    """A bundle of format version 2, for the populations "here" and "there"."""
    return save_bundle(tmp_path_factory.mktemp("bundles") / "two", bundle_info_2(), random_weights())


def shown_series(result):
    chart = result.chart
    return [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]


def again_with(case, prediction, segment="GTVp", **changes):
    scene, volume, segmentation = case
    revised = revise(prediction, **changes)
    return revised, write_result(scene, revised, volume, segmentation, segment)


def test_the_band_is_the_interval_and_the_spread_lies_behind(case, bundle_2):
    prediction, result = write(case, bundle_2)
    assert [node.GetName() for node in shown_series(result)] == [
        "Reference cohort", "GTVp: 10% of slices", "GTVp: 90% of slices", "95% interval: low", "95% interval: high",
        "GTVp: survival",
    ]  # fmt: skip
    assert np.allclose(column(result.curve, "95% interval: low"), prediction.interval_low, atol=1e-4)
    assert np.allclose(column(result.curve, "95% interval: high"), prediction.interval_high, atol=1e-4)
    for series in shown_series(result):
        assert series.GetTableNode().GetTable().GetColumnByName(series.GetYColumnName()) is not None
    assert result.low_series.GetYColumnName() == "95% interval: low"
    assert result.spread_low_series.GetYColumnName() == "10th percentile of slices"
    assert result.spread_low_series.GetColor() != result.low_series.GetColor()


def test_without_an_interval_the_band_is_the_spread_as_before(case, bundle_2, tiny_bundle):
    write(case, bundle_2)
    own = case[0].AddNewNodeByClass("vtkMRMLPlotSeriesNode", "The user's")
    find_result(*case, "GTVp").chart.AddAndObservePlotSeriesNodeID(own.GetID())
    prediction, result = write(case, tiny_bundle)
    assert [node.GetName() for node in shown_series(result)] == [
        "The user's", "Reference cohort", "GTVp: 10% of slices", "GTVp: 90% of slices", "GTVp: survival",
    ]  # fmt: skip
    assert result.low_series.GetYColumnName() == "10th percentile of slices"
    assert result.curve.GetTable().GetNumberOfColumns() == 4 and prediction.interval_low is None


def test_the_summary_names_population_size_and_covariates(case, bundle_2):
    there = bundle_2.for_population("there")
    prediction, result = write(case, there, covariates={"age_years": 63, "n_stage": "N2"})
    rows = range(result.summary.GetNumberOfRows())
    texts = {result.summary.GetCellText(row, 0): result.summary.GetCellText(row, 1) for row in rows}
    assert texts["Population"] == "Patients from there"
    assert texts["Entered beside the image"] == "age 63 years, N stage N2"
    assert texts["Tumour"].startswith(f"{prediction.volume_cc:.1f} cc") and "cm2" in texts["Tumour"]


def test_covariates_revise_the_result_and_cleared_it_is_the_images_own(case, bundle_2):
    prediction, result = write(case, bundle_2)
    image = column(result.curve, "Survival").copy()
    ids = [node.GetID() for node in result]
    older, result = again_with(case, prediction, covariates={"age_years": "80", "n_stage": "N3"})
    assert not np.array_equal(column(result.curve, "Survival"), image)
    assert read_record(result)["covariates"] == {"age_years": 80.0, "n_stage": 3.0}
    cleared, result = again_with(case, older, covariates={})
    assert np.array_equal(cleared.survival, prediction.survival) and cleared.risk == prediction.risk
    assert np.array_equal(column(result.curve, "Survival"), image)
    assert [node.GetID() for node in result] == ids


def test_outside_the_training_range_is_marked_in_the_chart(case, bundle_2):
    prediction, result = write(case, bundle_2)
    curve, chart = result.survival_series, result.chart
    plain = (curve.GetColor(), curve.GetLineStyle(), chart.GetTitle())
    assert chart.GetTitle() == "CT GTVp: predicted survival"
    outside, _ = again_with(case, prediction, covariates={"age_years": 95})
    assert not outside.inside_training_range
    assert chart.GetTitle() == "GTVp: outside what the model learned from"
    assert curve.GetLineStyle() == curve.GetLineStyleFromString("dash") and curve.GetColor() != plain[0]
    curve.SetColor(1, 0, 1)
    again_with(case, outside, covariates={"age_years": 96})
    assert curve.GetColor() == (1, 0, 1), "the user's colour stays while the mark does"
    again_with(case, outside, covariates={"age_years": 60})
    assert (curve.GetColor(), curve.GetLineStyle(), chart.GetTitle()) == plain


def test_outside_the_training_range_is_marked_in_a_comparison(case, bundle_2):
    prediction, first = write(case, bundle_2)
    _, second = write(case, bundle_2, "Lung", covariates={"age_years": 60})
    chart = write_comparison(case[0], first, second)
    ours, other, cohort = (chart.GetNthPlotSeriesNode(n) for n in range(3))
    plain = [(node.GetName(), node.GetLineStyle()) for node in (ours, other, cohort)]
    again_with(case, prediction, covariates={"age_years": 95})
    assert write_comparison(case[0], first, second) is chart and "Dashed: outside" in chart.GetTitle()
    assert ours.GetName() == "CT GTVp (outside)" and ours.GetLineStyle() == ours.GetLineStyleFromString("dash")
    again_with(case, prediction, covariates={})
    write_comparison(case[0], first, second)
    assert [(node.GetName(), node.GetLineStyle()) for node in (ours, other, cohort)] == plain
    assert chart.GetTitle() == "Predicted survival compared"


def test_population_and_covariates_come_back_with_the_scene(case, bundle_2, tmp_path):
    scene, there = case[0], bundle_2.for_population("there")
    prediction, _ = write(case, there, covariates={"age_years": 95, "n_stage": "N1"})
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    again = scene_that_unpacks(tmp_path)
    assert again.ReadFromMRB(path)
    nodes = again, again.GetFirstNodeByName("CT"), again.GetFirstNodeByName("Segmentation")
    loaded = find_result(*nodes, "GTVp")
    back = read_prediction(loaded, [bundle_2])
    assert back.population.name == "there" and back.covariates == {"age_years": 95.0, "n_stage": 1.0}
    assert np.array_equal(back.survival, prediction.survival) and back.outside == prediction.outside
    assert np.array_equal(back.interval_low, prediction.interval_low)
    assert len(shown_series(loaded)) == 6 and None not in loaded
    again_with(nodes, back, covariates={})
    assert loaded.survival_series.GetLineStyle() == loaded.survival_series.GetLineStyleFromString("solid")


def test_a_scene_of_an_earlier_version_is_restored(case, tiny_bundle):
    """It has no spread series, and its record no population and no covariates."""
    scene = case[0]
    prediction, result = write(case, tiny_bundle)
    for node in (result.spread_low_series, result.spread_high_series):
        scene.RemoveNode(node)
    record = read_record(result)
    for key in ("population", "covariates", "inside_training_range", "volume_cc", "interval_level"):
        del record[key]
    del record["provenance"]["population"], record["state"]["volume_cc"]
    result.record.SetText(json.dumps(record))
    found = find_result(*case, "GTVp")
    assert found is not None and found.spread_low_series is None and all_results(scene) == [found]
    back = read_prediction(found, [tiny_bundle])
    assert np.array_equal(back.survival, prediction.survival) and back.volume_cc is None
    _, made = again_with(case, back, used=[True, True, False])
    assert made.chart is result.chart and None not in made and len(shown_series(made)) == 4


def test_an_image_that_is_no_ct_in_the_panels_words(case, bundle_2):
    scene, _volume, segmentation = case
    magnetic = add_volume(scene, (200 * ball(radius=30) + 20).astype(np.int16), name="MR")
    with pytest.raises(CNNSurvivalError, match="do not look like Hounsfield units") as caught, words_of_the_panel():
        predict_nodes(magnetic, segmentation, "GTVp", bundle_2)
    assert "--force" not in str(caught.value) and "in the tab Model" in str(caught.value)
    assert predict_nodes(magnetic, segmentation, "GTVp", bundle_2, force=True).warnings


class DicomDatabase:
    """What patient_age asks ctkDICOMDatabase for."""

    isOpen = True

    def __init__(self, **values):
        tags = {"age": "0010,1010", "born": "0010,0030", "study": "0008,0020"}
        self.values = {tags[name]: value for name, value in values.items()}

    def instanceValue(self, instance, tag):
        return self.values.get(tag, "") if instance == "1.2.3" else ""


def test_a_tumour_that_is_too_small_in_the_panels_words(case, bundle_2):
    with pytest.raises(CNNSurvivalError) as caught, words_of_the_panel():
        write(case, bundle_2, min_roi_px=99999)
    assert "--" not in str(caught.value) and "minimum ROI area in the tab Model" in str(caught.value)
    with pytest.raises(CNNSurvivalError, match="minimum ROI area in the tab Model"), words_of_the_panel():
        write(case, bundle_2, min_roi_px=0)


@pytest.mark.parametrize(
    ("values", "age"),
    [
        ({"age": "063Y"}, "63"),
        ({"age": "063Y", "born": "19000101", "study": "20200101"}, "63"),
        ({"age": "018M"}, "1"),
        ({"age": "003D"}, "0"),
        ({"age": "about 60", "born": "19500615", "study": "20200614"}, "69"),
        ({"born": "19500615", "study": "20200615"}, "70"),
        ({"born": "1950.06.15", "study": "20200615"}, "70"),
        ({"born": "19500615"}, None),
        ({"born": "20200615", "study": "19500615"}, None),
        ({}, None),
    ],
)
def test_the_age_comes_from_dicom(scene, values, age):
    volume = add_volume(scene)
    assert patient_age(volume, DicomDatabase(**values)) is None, "not loaded from DICOM"
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    assert patient_age(volume, DicomDatabase(**values)) == age
    assert patient_age(volume, None) is None and patient_age(None, DicomDatabase(**values)) is None
    closed = DicomDatabase(**values)
    closed.isOpen = False
    assert patient_age(volume, closed) is None


# --- Whether a result is still that of the inputs -------------------------------------------------------------


def wanted_now(case, model, **changes):
    """What Predict would use now, of (..., CT, segmentation) and the segment GTVp."""
    segment = segment_checksum(*case[-2:], "GTVp")
    now = Wanted(model, "all", model.preprocessing.min_roi_px, model.max_slices, segment)
    return now._replace(**changes)


def written_record(case, bundle, max_slices=None):
    return read_record(write(case, bundle, max_slices=max_slices)[1])


def shared_case(scene):
    """Two segments in one labelmap, as Slicer keeps what is drawn."""
    volume = add_volume(scene)
    segmentation = add_segmentation(scene, {"Lung": ball(radius=10, center=CENTER + [25, 0, 0]), "GTVp": ball()},
                                    volume=volume)  # fmt: skip
    segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)
    return scene, volume, segmentation


def test_a_change_of_the_segment_is_seen_and_one_beside_it_is_not(scene, tiny_bundle):
    case = shared_case(scene)
    record = written_record(case, tiny_bundle)
    assert why_stale(record, wanted_now(case, tiny_bundle)) == ""
    draw(case[2], "Lung", ball(radius=8, center=CENTER + [25, 0, 0]))
    assert why_stale(record, wanted_now(case, tiny_bundle)) == ""
    draw(case[2], "GTVp", ball(radius=RADIUS - 1))
    assert why_stale(record, wanted_now(case, tiny_bundle)) == "The segment has changed since. Predict again."
    draw(case[2], "GTVp", ball())  # undone
    assert why_stale(record, wanted_now(case, tiny_bundle)) == ""
    move = put_under(scene, case[2], translation(4, 0, 0))
    assert "has changed" in why_stale(record, wanted_now(case, tiny_bundle))
    case[1].SetAndObserveTransformNodeID(move.GetID())
    assert why_stale(record, wanted_now(case, tiny_bundle)) == ""
    case[2].GetSegmentation().RemoveSegment("GTVp")
    assert "has changed" in why_stale(record, wanted_now(case, tiny_bundle))


def test_one_voxel_counts(scene):
    case = shared_case(scene)
    before, mask = segment_checksum(*case[1:], "GTVp"), ball()
    mask[tuple(np.argwhere(mask)[0])] = 0
    draw(case[2], "GTVp", mask)
    assert segment_checksum(*case[1:], "GTVp") != before
    assert segment_checksum(*case[1:], "Nose") is None


def test_the_checksum_is_made_anew_only_where_something_has_changed(scene, monkeypatch):
    from CNNSurvivalLib.mrml import stale

    case, made = shared_case(scene), []
    monkeypatch.setattr(stale, "segment_checksum", lambda *inputs: made.append(1) or segment_checksum(*inputs))
    now = SegmentNow()
    first = now.checksum(*case[1:], "GTVp")
    assert now.checksum(*case[1:], "GTVp") == first and len(made) == 1
    move = put_under(scene, case[2], np.eye(4))
    assert now.checksum(*case[1:], "GTVp") == first and len(made) == 2
    move.SetMatrixTransformToParent(matrix(translation(4, 0, 0)))
    assert now.checksum(*case[1:], "GTVp") != first
    case[2].SetAndObserveTransformNodeID(None)
    draw(case[2], "GTVp", ball(radius=RADIUS - 2))
    assert now.checksum(*case[1:], "GTVp") not in (first, None)
    assert now.checksum(None, None, "") is None


@pytest.mark.parametrize("change", ["nothing", "segment"])
def test_a_stale_mark_survives_saving(scene, tiny_bundle, tmp_path, change):
    case = shared_case(scene)
    written_record(case, tiny_bundle)
    if change == "segment":
        draw(case[2], "GTVp", ball(radius=RADIUS - 1))
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    other = scene_that_unpacks(tmp_path)
    assert other.ReadFromMRB(path)
    volume, segmentation = (nodes_of(other, name)[0] for name in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"))
    record = read_record(find_result(other, volume, segmentation, "GTVp"))
    text = why_stale(record, wanted_now((volume, segmentation), tiny_bundle))
    assert text == ("" if change == "nothing" else "The segment has changed since. Predict again.")


def test_what_else_was_chosen_is_named(case, bundle_2):
    record = written_record(case, bundle_2)
    there = bundle_2.for_population("there")
    titles = [bundle.population.title for bundle in (bundle_2, there)]
    other = replace(bundle_2, info={**bundle_2.info, "title": "Another disease", "name": "other"})
    twin = replace(bundle_2, info={**bundle_2.info, "version": "7"})
    retrained = replace(bundle_2, info={**bundle_2.info, "weights_sha256": "0"})
    for changes, sentence in (
        ({"bundle": there}, f"Made for '{titles[0]}'; chosen is '{titles[1]}'."),
        ({"bundle": other}, f"Made with the model '{bundle_2.title}'; chosen is 'Another disease'."),
        ({"bundle": twin}, f"Made with the model '{bundle_2.id}'; chosen is '{twin.id}'."),
        ({"bundle": retrained}, f"chosen is '{bundle_2.id}' with other weights."),
        ({"bundle": None}, "No model is chosen that can be used."),
        ({"min_roi_px": 7}, "chosen is 7 px."),
        ({"max_slices": 2}, "chosen are 2."),
    ):
        text = why_stale(record, wanted_now(case, bundle_2, **changes))
        assert text.endswith(f"{sentence} Predict again.") and text.count(". ") == 1


def test_a_limit_that_limits_nothing_does_not_matter(case, tiny_bundle):
    record = written_record(case, tiny_bundle)
    there = len(record["slices"])
    assert there < tiny_bundle.max_slices
    assert why_stale(record, wanted_now(case, tiny_bundle, max_slices=there)) == ""
    assert why_stale(record, wanted_now(case, tiny_bundle, max_slices=500)) == ""
    assert "slices" in why_stale(record, wanted_now(case, tiny_bundle, max_slices=there - 1))
    few = written_record(case, tiny_bundle, max_slices=there)
    assert "slices" in why_stale(few, wanted_now(case, tiny_bundle)), "there may be more of them"


def test_a_record_of_an_earlier_version_is_not_stale(case, tiny_bundle):
    record = written_record(case, tiny_bundle)
    for name in ("segment_sha256", "population", "lesions"):
        record["provenance"].pop(name)
    assert why_stale(record, wanted_now(case, tiny_bundle)) == ""


def test_inputs_removed_before_they_are_read(case, tiny_bundle):
    scene, volume, segmentation = case

    def remove(step, fraction):
        scene.RemoveNode(segmentation)

    with pytest.raises(Cancelled):
        predict_nodes(volume, segmentation, "GTVp", tiny_bundle, progress=remove)


# --- The slice views ------------------------------------------------------------------------------------------


def add_views(scene, count=2):
    return [scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode") for _number in range(count)]


def add_map(case, bundle):
    case[0].RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())  # as Slicer's module Colors does
    _prediction, result = write(case, bundle)
    node = write_explanation(case[0], case[1], np.ones(SHAPE), result, "Raises it.")
    return result, node


def test_the_map_gives_back_the_foreground_that_was_there(case, tiny_bundle):
    scene = case[0]
    views, pet = add_views(scene), add_volume(scene, name="PET")
    views[0].SetForegroundVolumeID(pet.GetID())
    views[0].SetForegroundOpacity(0.3)
    _result, node = add_map(case, tiny_bundle)
    assert sentence_of(node) == "Raises it."
    overlay = MapOverlay()
    assert overlay.shown(scene) is None
    overlay.show(scene, node)
    overlay.show(scene, node)
    assert overlay.shown(scene) is node
    assert [view.GetForegroundVolumeID() for view in views] == [node.GetID()] * 2
    assert views[0].GetForegroundOpacity() == 0.6
    overlay.hide(scene)
    assert [view.GetForegroundVolumeID() for view in views] == [pet.GetID(), None]
    assert views[0].GetForegroundOpacity() == 0.3 and views[1].GetForegroundOpacity() == 0
    overlay.show(scene, node)
    views[1].SetForegroundVolumeID(pet.GetID())  # by the user
    overlay.hide(scene)
    assert [view.GetForegroundVolumeID() for view in views] == [pet.GetID()] * 2
    overlay.show(scene, node)
    scene.RemoveNode(pet)
    overlay.hide(scene)
    assert overlay.shown(scene) is None


def test_the_segment_is_an_outline_while_the_map_is_shown(case, tiny_bundle):
    scene, _volume, segmentation = case
    add_views(scene)
    segmentation.CreateDefaultDisplayNodes()
    display = segmentation.GetDisplayNode()
    display.SetSegmentVisibility2DOutline("GTVp", False)
    _result, node = add_map(case, tiny_bundle)
    overlay = MapOverlay()
    overlay.show(scene, node)
    overlay.show(scene, node)

    def looks(segment):
        return display.GetSegmentVisibility2DFill(segment), display.GetSegmentVisibility2DOutline(segment)

    assert looks("GTVp") == (False, True) and looks("Lung") == (True, True)
    overlay.hide(scene)
    assert looks("GTVp") == (True, False)
    overlay.show(scene, node)
    display.SetSegmentVisibility2DFill("GTVp", True)  # by the user
    overlay.hide(scene)
    assert looks("GTVp") == (True, True)


def test_the_map_has_a_legend(case, tiny_bundle):
    scene = case[0]
    _result, node = add_map(case, tiny_bundle)
    overlay = MapOverlay()
    for _time in range(2):
        overlay.show(scene, node)
        (legend,) = nodes_of(scene, "vtkMRMLColorLegendDisplayNode")
        assert legend.GetTitleText() == "Risk (% points)" and legend.GetVisibility()
        overlay.hide(scene)
        assert not legend.GetVisibility()


def test_whether_the_views_show_the_ct_and_the_tumour(case, tiny_bundle):
    scene, volume, _segmentation = case
    slices = predict_nodes(*case[1:], "GTVp", tiny_bundle).slices
    (view,) = add_views(scene, 1)
    assert not is_shown(scene, volume)
    view.SetBackgroundVolumeID(volume.GetID())
    assert is_shown(scene, volume)
    node = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    node.SetMappedInLayout(1)
    for offset, expected in ((CENTER[2], True), (CENTER[2] + RADIUS + 5, False), (CENTER[2] + 1, True)):
        node.SetSliceOffset(offset)
        assert shows_slice(scene, slices) is expected
    axial, across = vtk.vtkMatrix4x4(), np.eye(4)
    axial.DeepCopy(node.GetSliceToRAS())
    across[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, 1, 0]]
    across[:3, 3] = CENTER
    node.GetSliceToRAS().DeepCopy(matrix(across))  # coronal, through the middle of the tumour
    assert not shows_slice(scene, slices)
    node.GetSliceToRAS().DeepCopy(axial)
    assert shows_slice(scene, slices)
    node.SetMappedInLayout(0)
    assert not shows_slice(scene, slices)
