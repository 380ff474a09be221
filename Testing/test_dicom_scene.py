"""The DICOM objects of a result in Slicer's scene: which files the CT comes from, whether the result still holds."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core (pip install slicer-core)")
pytest.importorskip("pydicom")
pytest.importorskip("SimpleITK")

import pydicom
from test_dicom_objects import needs_highdicom, stacked
from test_scene import add_segmentation, add_volume, ball, put_under, scene, translation  # noqa: F401

import dicom_maker as maker
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.mrml.dicom import (
    INSTANCE_UIDS,
    explained,
    predicted_tumour,
    source_files,
    why_no_dicom,
    with_source,
)
from CNNSurvivalLib.mrml.explanation import write_explanation
from CNNSurvivalLib.mrml.inputs import predict_nodes
from CNNSurvivalLib.mrml.results import write_result
from CNNSurvivalLib.report.dicom import folder as objects
from CNNSurvivalLib.report.dicom.study import read_study

SHAPE = (20, 80, 90)


class Database:
    """What of ctkDICOMDatabase is asked for."""

    def __init__(self, files, isOpen=True):
        self._files = {pydicom.dcmread(path).SOPInstanceUID: str(path) for path in files}
        self.isOpen = isOpen

    def fileForInstance(self, uid):
        return self._files.get(uid, "")


@pytest.fixture
def case(scene, tmp_path, tiny_bundle):  # noqa: F811
    """A CT as Slicer's plugin leaves it, a segment on it and the result."""
    matrix = maker.ijk_to_ras()
    center = matrix[:3, :3] @ ((np.array(SHAPE[::-1]) - 1) / 2) + matrix[:3, 3]
    mask = ball(SHAPE, matrix, center)
    hu = (np.where(mask, 40, -850) + np.random.default_rng(0).normal(0, 20, SHAPE)).astype(np.int16)
    ct = maker.write_ct(tmp_path / "ct", hu)
    volume = add_volume(scene, hu, matrix)
    volume.SetAttribute(INSTANCE_UIDS, " ".join(str(pydicom.dcmread(path).SOPInstanceUID) for path in ct))
    segmentation = add_segmentation(scene, {"GTVp": mask}, matrix, volume)
    prediction = predict_nodes(volume, segmentation, "GTVp", tiny_bundle)
    result = write_result(scene, prediction, volume, segmentation, "GTVp")
    return SimpleNamespace(
        scene=scene, ct=ct, volume=volume, segmentation=segmentation, mask=mask, matrix=matrix, prediction=prediction,
        result=result, out=tmp_path / "out",
    )  # fmt: skip


def test_the_files_are_those_of_the_database(case):
    database = Database(case.ct)
    assert why_no_dicom(case.volume, database) == ""
    assert source_files(case.volume, database) == case.ct


@pytest.mark.parametrize("how", ["no volume", "no attribute", "no database", "closed", "other files", "deleted"])
def test_why_nothing_can_join_is_said(case, how):
    volume, database = case.volume, Database(case.ct, isOpen=how != "closed")
    said = "DICOM database"
    if how == "no volume":
        volume, said = None, "not loaded from DICOM"
    elif how == "no attribute":
        volume.RemoveAttribute(INSTANCE_UIDS)
        said = "not loaded from DICOM"
    elif how == "no database":
        database = None
    elif how == "other files":
        database = Database([])
    elif how == "deleted":
        for path in case.ct:
            path.unlink()
    assert said in why_no_dicom(volume, database)
    with pytest.raises(CNNSurvivalError, match=said):
        source_files(volume, database)


def test_one_missing_file_is_counted(case):
    case.ct[4].unlink()
    database = Database([path for path in case.ct if path.exists()])
    assert why_no_dicom(case.volume, database) == ""
    with pytest.raises(CNNSurvivalError, match="1 of the CT's 20 files"):
        source_files(case.volume, database)


def test_the_tumour_is_the_one_predicted_from(case):
    tumour = predicted_tumour(case.result, case.prediction)
    assert np.array_equal(tumour.mask, case.mask) and tumour.name == "GTVp"
    assert np.allclose(tumour.ijk_to_ras, case.matrix)


def test_a_tumour_drawn_anew_since_is_refused(case):
    smaller = case.mask.copy()
    smaller[10] = 0
    case.segmentation.GetSegmentation().RemoveSegment("GTVp")
    from test_scene import oriented

    case.segmentation.AddSegmentFromBinaryLabelmapRepresentation(
        oriented(smaller, case.matrix), "GTVp", [1, 0, 0], "GTVp"
    )
    with pytest.raises(CNNSurvivalError, match="has changed since the prediction; predict again"):
        predicted_tumour(case.result, case.prediction)


def test_of_several_lesions_the_tumour_is_those_that_were_taken(case, tiny_bundle):
    both = case.mask.copy()
    both[1:4, 2:9, 2:9] = 1
    case.segmentation.GetSegmentation().RemoveSegment("GTVp")
    from test_scene import oriented

    case.segmentation.AddSegmentFromBinaryLabelmapRepresentation(oriented(both, case.matrix), "GTVp", [1, 0, 0], "GTVp")
    for lesions, expected in (("all", both), ("largest", case.mask)):
        prediction = predict_nodes(case.volume, case.segmentation, "GTVp", tiny_bundle, lesions=lesions)
        result = write_result(case.scene, prediction, case.volume, case.segmentation, "GTVp")
        assert np.array_equal(predicted_tumour(result, prediction).mask, expected)


def test_an_explained_result_gives_its_map(case):
    assert explained(case.scene, case.result) is None
    values = np.where(case.mask, 1.5, 0).astype(np.float32)
    write_explanation(case.scene, case.volume, values, case.result)
    assert np.array_equal(explained(case.scene, case.result), values)


@needs_highdicom
def test_a_result_of_the_scene_as_objects(case):
    tumour = predicted_tumour(case.result, case.prediction)
    done = objects.write_dicom(
        case.prediction, read_study(source_files(case.volume, Database(case.ct))), tumour, case.out,
        report=b"%PDF-1.4", curve=maker.picture()[0],
    )  # fmt: skip
    assert not done.notes
    seg = pydicom.dcmread(case.out / "tumour.dcm")
    assert np.array_equal(stacked(seg, case.matrix, SHAPE), case.mask)


@needs_highdicom
@pytest.mark.parametrize("noted", ["hierarchy", "node"])
@pytest.mark.parametrize("state", ["as loaded", "edited", "renamed", "of another study"])
def test_a_segment_from_a_dicom_seg_refers_to_it_unless_it_was_edited(case, noted, state):
    slicer = pytest.importorskip("slicer")
    study, tumour = read_study(case.ct), predicted_tumour(case.result, case.prediction)
    objects.write_dicom(
        case.prediction, study, tumour, case.out, report=b"%PDF-1.4", curve=maker.picture()[0]
    )  # fmt: skip
    path = case.out / "tumour.dcm"
    seg = pydicom.dcmread(path)
    if state == "of another study":
        seg.StudyInstanceUID = "1.2.3"
        seg.save_as(path)
    if noted == "node":
        case.segmentation.SetAttribute(INSTANCE_UIDS, seg.SOPInstanceUID)
    else:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(case.scene)
        name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMInstanceUIDName()
        item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), case.segmentation)
        hierarchy.SetItemUID(item, name, seg.SOPInstanceUID)
    if state == "edited":
        tumour.mask[10, 40, 45] = 0
    elif state == "renamed":
        tumour = objects.Tumour(tumour.mask, tumour.ijk_to_ras, "Another")
    found = with_source(tumour, case.result, study, Database([*case.ct, path]))
    if state == "as loaded":
        assert found.segmentation.SOPInstanceUID == seg.SOPInstanceUID and found.segment_number == 1
    else:
        assert found.segmentation is None


@needs_highdicom
def test_a_ct_under_a_transform_gets_no_places(case, tiny_bundle):
    for node in (case.volume, case.segmentation):
        put_under(case.scene, node, translation(5, 0, 0))
    prediction = predict_nodes(case.volume, case.segmentation, "GTVp", tiny_bundle)
    result = write_result(case.scene, prediction, case.volume, case.segmentation, "GTVp")
    done = objects.write_dicom(
        prediction, read_study(case.ct), predicted_tumour(result, prediction), case.out, report=b"%PDF-1.4",
        curve=maker.picture()[0],
    )  # fmt: skip
    assert {path.name for path in done.paths} == {"report.dcm", "curve.dcm", "numbers.dcm"}
    assert "take away the CT's transform" in done.notes[0]
