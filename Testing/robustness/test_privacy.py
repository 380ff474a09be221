"""What a DICOM file says of the patient stays in it.

Every element of CT, SEG and RTSTRUCT that may hold something of the patient, the hospital or the staff gets a marker,
private elements too; none of the markers may turn up in what the commands print and write, or in Slicer's scene.

Allowed, because the user gave or needs them: the paths of the input (so name folders accordingly), patient_id of a
manifest, the name of the structure that was asked for or has to be chosen, the series' UID and description where one
of several has to be chosen, and, where ``prepare`` pairs a folder of DICOM files with a clinical table, PatientID as
the patient_id of the store; and the DICOM objects of --dicom, which go home to the patient's study. What --debug
prints is for reports of faults, and not looked at here.
"""

# ruff: noqa: E402 (what may be missing is looked for before it is imported)

import csv
import re
import shutil

import numpy as np
import pytest

for name in ("pydicom", "SimpleITK", "highdicom", "skimage", "matplotlib"):
    pytest.importorskip(name)

import pydicom

import hostile_maker as maker
from training_cli.cli import main

MARKER = "Zq7Secret"
PATIENT_ID = "Zq7PatientId"
# Elements without which the files are not what they are; everything else of these kinds is marked.
KEPT = {
    "Modality", "ImageType", "PhotometricInterpretation", "SegmentationType", "SegmentationFractionalType",
    "ContourGeometricType", "SpecificCharacterSet", "RescaleType", "PatientPosition", "SegmentLabel", "ROIName",
    "SegmentAlgorithmType", "ROIGenerationAlgorithm", "LossyImageCompression", "DimensionOrganizationType",
    "ContentLabel", "SegmentsOverlap", "BurnedInAnnotation", "CodeValue", "CodingSchemeDesignator", "PatientID",
}  # fmt: skip
TEXTS = {"LO", "SH", "PN", "LT", "ST", "UT", "UC", "CS", "AE", "DA", "TM", "DT", "AS"}
MORE = (
    "PatientName", "PatientBirthDate", "PatientBirthTime", "PatientSex", "PatientAge", "OtherPatientIDs",
    "OtherPatientNames", "PatientAddress", "PatientMotherBirthName", "PatientTelephoneNumbers", "PatientComments",
    "MilitaryRank", "EthnicGroup", "Occupation", "AdditionalPatientHistory", "PatientReligiousPreference",
    "MedicalRecordLocator", "InsurancePlanIdentification", "CountryOfResidence", "RegionOfResidence",
    "ReferringPhysicianName", "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers",
    "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "RequestingPhysician",
    "OperatorsName", "ReviewerName", "ContentCreatorName", "InstitutionName", "InstitutionAddress",
    "InstitutionalDepartmentName", "StationName", "StudyDescription", "SeriesDescription", "StudyID",
    "AccessionNumber", "AdmissionID", "ImageComments", "ContentDescription", "StructureSetName", "StructureSetLabel",
    "StructureSetDescription", "ProtocolName", "DeviceSerialNumber", "RequestedProcedureDescription",
    "RequestAttributesSequence", "MedicalAlerts", "Allergies", "StudyDate", "SeriesDate", "AcquisitionDate",
    "ContentDate", "StudyTime", "FrameComments", "IssuerOfPatientID", "ClinicalTrialSubjectID",
)  # fmt: skip


def mark(dataset, number=None):
    """Fill every text with a marker that names its element; dates get one, too, though it is none."""
    counter = number if number is not None else [0]
    for element in list(dataset):
        if element.VR == "SQ":
            for item in element.value or []:
                mark(item, counter)
        elif element.VR in TEXTS and element.keyword not in KEPT:
            counter[0] += 1
            element.value = f"{MARKER}{counter[0]}"
    return counter[0]


def spoil(path):
    dataset = pydicom.dcmread(path)
    for keyword in MORE:
        if keyword not in dataset and pydicom.datadict.dictionary_VR(keyword) != "SQ":
            setattr(dataset, keyword, MARKER)
    other = pydicom.Dataset()
    other.ScheduledProcedureStepDescription = MARKER
    dataset.RequestAttributesSequence = [other]
    block = dataset.private_block(0x0011, "CNNSURVIVAL TEST", create=True)
    block.add_new(0x01, "LO", f"{MARKER}-private")
    block.add_new(0x02, "UN", f"{MARKER}-private".encode())
    count = mark(dataset)
    dataset.PatientID = PATIENT_ID
    dataset.preamble = f"{MARKER}-preamble".encode().ljust(128, b"\0")
    dataset.save_as(path)
    return count


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """ct/, seg.dcm, structures.dcm, full of markers, and a bundle."""
    import warnings

    folder = maker.make_targets(tmp_path_factory.mktemp("marked"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of dates that are none
        for path in folder.rglob("*.dcm"):
            assert spoil(path) > 40
    return folder


@pytest.fixture
def case(marked, tmp_path):
    return shutil.copytree(marked, tmp_path / "case")


def silent(text: bytes, *more: str) -> None:
    """No marker in the bytes: plain, in UTF-16, in any case."""
    flat = text.lower().replace(b"\0", b"")
    for marker in (MARKER, *more):
        found = re.search(b".{0,80}" + marker.lower().encode() + b".{0,80}", flat, re.DOTALL)
        assert not found, found.group()


def run(capfd, *arguments):
    """(exit code, stdout and stderr) of a command, those of the C libraries and of warnings included."""
    import warnings

    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # printed, as for a user, not raised
        code = main([str(argument) for argument in arguments])
    return code, "".join(capfd.readouterr())


def written(folder):
    return b"".join(path.name.encode() + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("mask", ["seg.dcm", "structures.dcm"])
def test_a_prediction_names_no_patient(case, capfd, mask):
    code, said = run(capfd, "predict", "--image", case / "ct", "--mask", case / mask, "--segment", "GTV-1", "--model",
                     case / "bundle", "--output", case / "out")  # fmt: skip
    # Five files: every way of predicting a case also writes horizons.csv.
    assert code == 0 and len(list((case / "out").iterdir())) == 5
    silent(said.encode() + written(case / "out"), PATIENT_ID)


def test_dicom_objects_hold_the_patient_where_the_ct_has_it_and_nowhere_else(case, capfd):
    """The objects go home to the patient's study; what they show and say of the tumour names no patient."""
    code, said = run(capfd, "predict", "--image", case / "ct", "--mask", case / "structures.dcm", "--segment", "GTV-1",
                     "--model", case / "bundle", "--output", case / "out", "--dicom")  # fmt: skip
    assert code == 0
    objects = list((case / "out" / "dicom").iterdir())
    silent(said.encode(), PATIENT_ID)
    for path in (case / "out").iterdir():
        if path.is_file():
            silent(path.name.encode() + path.read_bytes(), PATIENT_ID)
    import warnings

    from CNNSurvivalLib.report.dicom.study import OPTIONAL, REQUIRED

    # The last is said of the place of the CT, not of the patient.
    copied = {*REQUIRED, *OPTIONAL, "PositionReferenceIndicator"}
    # This model gives all images the same risk, so there is no map.
    assert {path.name for path in objects} == {"report.dcm", "curve.dcm", "numbers.dcm", "tumour.dcm"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of markers that are no dates
        source = pydicom.dcmread(next((case / "ct").iterdir()))
        for path in objects:
            found = pydicom.dcmread(path)
            assert found.PatientID == PATIENT_ID and found.PatientName == source.PatientName
            for keyword in copied & {element.keyword for element in found}:
                del found[keyword]
            found.save_as(path)
            silent(path.read_bytes(), PATIENT_ID)


def test_pictures_hold_no_texts_but_those_that_are_drawn(case, capfd):
    from PIL import Image

    run(capfd, "predict", "--image", case / "ct", "--mask", case / "seg.dcm", "--segment", "GTV-1", "--model",
        case / "bundle", "--output", case / "out")  # fmt: skip
    with Image.open(case / "out" / "survival_curve.png") as picture:
        assert set(picture.info) <= {"dpi"}


def test_a_batch_names_no_patient_but_by_the_manifests_id(case, capfd):
    rows = [["case one", "ct", mask, "GTV-1"] for mask in ("seg.dcm", "structures.dcm")]
    rows += [["bad", "ct", "seg.dcm", "no such"], ["bad", "ct", "ct/0001.dcm", ""], ["bad", "seg.dcm", "seg.dcm", ""]]
    with open(case / "cases.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["patient_id", "image", "mask", "segment"], *rows])
    code, said = run(capfd, "predict", "--manifest", case / "cases.csv", "--details", "--model", case / "bundle",
                     "--output", case / "out")  # fmt: skip
    assert code == 3 and said.count("bad: ") == 3
    silent(said.encode() + written(case / "out"), PATIENT_ID)


def test_prepare_names_no_patient_but_by_the_id_that_pairs_them(case, capfd):
    pytest.importorskip("pandas")
    with open(case / "clinical.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["patient_id", "time_days", "event"], [PATIENT_ID, 100, 1], ["other", 5, 0]])
    (case / "structures.dcm").unlink()
    code, said = run(capfd, "prepare", case, "--clinical", case / "clinical.csv", "--segment", "GTV", "--output",
                     case.parent / "store")  # fmt: skip
    assert code == 3, said
    silent(said.encode(), PATIENT_ID)
    silent(written(case.parent / "store"))
    with open(case / "cases.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["patient_id", "image", "mask", "segment", "time_days", "event"],
                                      ["p1", "ct", "seg.dcm", "GTV-1", 100, 1]])  # fmt: skip
    code, said = run(capfd, "prepare", case / "cases.csv", "--output", case.parent / "second")
    assert code == 0
    silent(said.encode() + written(case.parent / "second"), PATIENT_ID)


def test_refusals_name_no_patient(case, capfd):
    """Whatever is wrong with the files; also with the numbers in them."""

    def refuse(*changes, image="ct", mask="seg.dcm", segment="GTV-1"):
        code, said = run(capfd, "predict", "--image", case / image, "--mask", case / mask, "--segment", segment,
                         "--model", case / "bundle", "--output", case / "out", *changes)  # fmt: skip
        assert code in (1, 2), said
        silent(said.encode(), PATIENT_ID)

    refuse(mask="seg.dcm", segment="nothing")
    refuse(mask="structures.dcm", segment="nothing")
    refuse(image="structures.dcm")
    refuse(mask="ct/0002.dcm")
    refuse("--series-uid", "1.2.3", image="bundle")
    for name in ("seg.dcm", "structures.dcm", "ct/0003.dcm"):
        content = (case / name).read_bytes()
        (case / name).write_bytes(content[:1500])
        refuse(mask=name)
        (case / name).write_bytes(content)
    numbers = {
        "structures.dcm": [(0x3006, 0x0039), (0x3006, 0x0040), (0x3006, 0x0050)],
        "seg.dcm": [(0x5200, 0x9229), (0x0028, 0x9110), (0x0028, 0x0030)],
    }
    for name, path in numbers.items():
        dataset = pydicom.dcmread(case / name)
        *sequences, last = path
        item = dataset
        for tag in sequences:
            item = item[tag].value[0]
        item[last] = pydicom.dataelem.RawDataElement(pydicom.tag.Tag(last), "DS", 10, b"Zq7Secret ", 0, False, True)
        dataset.save_as(case / name)
        refuse(mask=name)


def test_the_scene_holds_no_patient(case):
    """As Slicer has it after loading DICOM, with a subject hierarchy that does name the patient."""
    slicer = pytest.importorskip("slicer")
    pytest.importorskip("vtk")
    from test_scene import add_segmentation, add_volume, ball

    from CNNSurvivalLib.bundle import load_bundle
    from CNNSurvivalLib.mrml.inputs import predict_nodes
    from CNNSurvivalLib.mrml.results import write_result

    scene = slicer.vtkMRMLScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
    volume = add_volume(scene)
    segmentation = add_segmentation(scene, {"GTVp": ball()}, volume=volume)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), f"{MARKER} ({PATIENT_ID})")
    hierarchy.SetItemAttribute(patient, "DICOM.PatientName", MARKER)
    study = hierarchy.CreateStudyItem(patient, f"{MARKER} study")
    hierarchy.CreateItem(study, volume)
    for node in (volume, segmentation):
        for name in ("DICOM.PatientName", "DICOM.instanceUIDs", "Comment"):
            node.SetAttribute(name, MARKER)
        node.SetDescription(MARKER)
    prediction = predict_nodes(volume, segmentation, "GTVp", load_bundle(case / "bundle"), max_slices=1)
    result = write_result(scene, prediction, volume, segmentation, "GTVp")
    texts = []
    for node in result:
        texts += [node.GetName(), node.GetDescription() or "", str(node)]
        texts += [f"{name}={node.GetAttribute(name)}" for name in node.GetAttributeNames()]
        if node.IsA("vtkMRMLTableNode"):
            texts += [node.GetCellText(row, column) for row in range(node.GetNumberOfRows())
                      for column in range(node.GetNumberOfColumns())]  # fmt: skip
        if node.IsA("vtkMRMLTextNode"):
            texts.append(node.GetText())
    assert len(result) > 5 and np.isfinite(prediction.risk)
    silent("\n".join(texts).encode(), PATIENT_ID)
