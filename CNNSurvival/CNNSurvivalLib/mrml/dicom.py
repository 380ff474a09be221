"""What the result's DICOM objects need from the scene: the CT's DICOM files, and the tumour that was predicted from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import CNNSurvivalError
from ..io.read import same_segment
from ..lesions import taken
from ..prediction import Prediction
from ..report.dicom.folder import Tumour
from ..slices import extract_slices
from .explanation import find_explanation
from .inputs import ct_and_mask
from .nodes import hierarchy_of, segments_of
from .results import Result, predicted_from

# Set by Slicer's DICOM plugins on what they load: the SOPInstanceUIDs of its files, with spaces between
INSTANCE_UIDS = "DICOM.instanceUIDs"
# The same in the subject hierarchy: vtkMRMLSubjectHierarchyConstants.GetDICOMInstanceUIDName()
HIERARCHY_UIDS = "DICOMInstanceUID"


def why_no_dicom(volume_node, database) -> str:
    """Why nothing can join the study of a CT, as the end of a sentence; "" where it can.

    Looks for one of the CT's files only, as the panel asks often.

    Parameters
    ----------
    volume_node : vtkMRMLScalarVolumeNode or None
    database : ctkDICOMDatabase or None
        ``slicer.dicomDatabase``.
    """
    if not _instances(volume_node):
        return "the CT was not loaded from DICOM"
    if database is None or not database.isOpen:
        return "Slicer's DICOM database is not open"
    if not _file(database, _instances(volume_node)[0]):
        return "the CT's files are not in Slicer's DICOM database"
    return ""


def source_files(volume_node, database) -> list[Path]:
    """The DICOM files that a CT was loaded from.

    Parameters
    ----------
    volume_node : vtkMRMLScalarVolumeNode
    database : ctkDICOMDatabase
        ``slicer.dicomDatabase``.

    Raises
    ------
    CNNSurvivalError
        Where the CT does not come from DICOM, or a file of it is no longer there.
    """
    why = why_no_dicom(volume_node, database)
    files = [] if why else [_file(database, uid) for uid in _instances(volume_node)]
    if not why and not all(files):
        why = f"{files.count('')} of the CT's {len(files)} files are not in Slicer's DICOM database"
    if why:
        raise CNNSurvivalError(f"DICOM objects cannot be written: {why}; import the CT into Slicer's DICOM database "
                               "and load it from there.")  # fmt: skip
    return [Path(file) for file in files]


def predicted_tumour(result: Result, prediction: Prediction) -> Tumour:
    """The tumour that a result was predicted from: of several lesions those that were taken.

    Raises
    ------
    CNNSurvivalError
        Where the CT or the segment is gone, or has changed since.
    """
    volume, segmentation, segment_id = predicted_from(result.record)
    hu, mask, ijk_to_ras, _warnings = ct_and_mask(volume, segmentation, segment_id)
    parameters = prediction.provenance["parameters"]
    mask = taken(mask, ijk_to_ras, parameters)
    preprocessing = replace(prediction.bundle.preprocessing, min_roi_px=parameters["min_roi_px"])
    now = extract_slices(hu, mask, ijk_to_ras, preprocessing).best(parameters["max_slices"])
    if not np.array_equal(now.images, prediction.slices.images):
        raise CNNSurvivalError("The tumour or the CT has changed since the prediction; predict again, then export.")
    return Tumour(mask, ijk_to_ras, segments_of(segmentation)[segment_id].GetName())


def with_source(tumour: Tumour, result: Result, study, database) -> Tumour:
    """The tumour with the DICOM SEG that it was loaded from, where that is of the study and it was not edited since.

    Parameters
    ----------
    tumour : Tumour
        From ``predicted_tumour``.
    result : Result
    study : report.dicom.study.Study
        Of the CT.
    database : ctkDICOMDatabase
    """
    _volume, segmentation, _segment_id = predicted_from(result.record)
    for uid in _segmentation_instances(segmentation):
        path = _file(database, uid)
        found = same_segment(path, tumour.name, tumour.mask, tumour.ijk_to_ras) if path else None
        if found is not None and found[0].get("StudyInstanceUID") == study.about.StudyInstanceUID:
            return replace(tumour, segmentation=found[0], segment_number=found[1])
    return tumour


def _segmentation_instances(node) -> list[str]:
    """The SOPInstanceUIDs that a DICOM plugin noted for a segmentation: in the subject hierarchy, or on the node."""
    hierarchy = hierarchy_of(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    return ((hierarchy.GetItemUID(item, HIERARCHY_UIDS) if item else "") or "").split() or _instances(node)


def explained(scene, result: Result):
    """The map that ``write_explanation`` left for this result, float32 [k, j, i] on the CT's grid; None without one."""
    node = find_explanation(scene, result)
    if node is None:
        return None
    from vtk.util.numpy_support import vtk_to_numpy

    image = node.GetImageData()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def _instances(volume_node) -> list[str]:
    return ((volume_node.GetAttribute(INSTANCE_UIDS) if volume_node else None) or "").split()


def _file(database, uid: str) -> str:
    """The file of an instance that is in the database and on the disk; else ""."""
    path = database.fileForInstance(uid) or ""
    return path if path and Path(path).is_file() else ""
