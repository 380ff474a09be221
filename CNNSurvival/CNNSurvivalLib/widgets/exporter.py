"""No box of the panel: writes the result, for the box Export and for scripts by way of the module's logic."""

import slicer
from slicer.i18n import tr as _

from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.mrml.dicom import explained, predicted_tumour, source_files, with_source
from CNNSurvivalLib.mrml.results import read_record
from CNNSurvivalLib.report.case_folder import free_path, write_case_folder
from CNNSurvivalLib.report.dicom.folder import make_objects, placed
from CNNSurvivalLib.report.dicom.instance import uid_of
from CNNSurvivalLib.report.dicom.study import read_study
from CNNSurvivalLib.report.page import report_pdf
from CNNSurvivalLib.widgets.painter import curve_png


def exportFiles(result, prediction, folder, patient=None, scene=False, progress=None) -> list:
    """Write report, picture, tables and, if ``scene``, all of the scene as .mrb; returns the paths."""
    report = progress or (lambda step, fraction: None)
    report(_("Writing files"), 0.1)
    inputs = read_record(result).get("inputs")
    paths = write_case_folder(prediction, folder, inputs, patient=patient, picture=lambda: curve_png(prediction))
    if scene:
        report(_("Saving the scene"), 0.5)
        path = free_path(folder, "scene.mrb")
        if not slicer.util.saveScene(str(path)):
            raise CNNSurvivalError(_("The scene cannot be saved as '{path}'; the other files are written.").format(
                path=path))  # fmt: skip
        paths.append(path)
    return paths


def exportDicom(volume, result, prediction, folder, database=False, progress=None, others=None):
    """Write the result as DICOM objects that join the CT's study, and put them into Slicer's database if asked.

    others: others() writes the files beside them; it is called when the objects are made, and where it fails none of
    them stays. The database comes last. Returns report.dicom.folder.Written: the paths, and sentences that say what
    was left out. Raises CNNSurvivalError where the CT does not come from DICOM, or the tumour has changed since the
    prediction.
    """
    report = progress or (lambda step, fraction: None)
    report(_("Reading the CT's DICOM files"), 0.0)
    study = read_study(source_files(volume, slicer.dicomDatabase))
    tumour = with_source(predicted_tumour(result, prediction), result, study, slicer.dicomDatabase)
    report(_("Writing DICOM"), 0.1)
    objects = make_objects(
        prediction, study, tumour, report=report_pdf(prediction, {"segment": tumour.name}, study.patient),
        curve=curve_png(prediction), named=bool(study.patient), risk_map=explained(slicer.mrmlScene, result),
    )  # fmt: skip
    with placed(objects, folder) as written:
        if others is not None:
            others()
    if database:
        report(_("Adding to the DICOM database"), 0.7)
        _addToDatabase(written.paths)
    return written


def _addToDatabase(paths) -> None:
    """Copy DICOM files into Slicer's DICOM database, from where Slicer sends them to a server."""
    import ctk

    indexer = ctk.ctkDICOMIndexer()
    indexer.addListOfFiles(slicer.dicomDatabase, [str(path) for path in paths], True)
    indexer.waitForImportFinished()
    missing = [path.name for path in paths if not slicer.dicomDatabase.fileForInstance(uid_of(path))]
    if missing:
        raise CNNSurvivalError(_("Slicer's DICOM database did not take {names}; the files are written, import them in "
                                 "the DICOM module.").format(names=", ".join(missing)))  # fmt: skip
