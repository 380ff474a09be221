"""``cnn-survival predict --dicom``: from DICOM files to objects in the same study, or a sentence that says why not."""

import csv
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
sitk = pytest.importorskip("SimpleITK")
pytest.importorskip("matplotlib")

from test_dicom_objects import items, meaning, output_of, program, stacked  # noqa: E402

import dicom_maker as maker  # noqa: E402
from training_cli.cli import main  # noqa: E402

ALL = {"report.dcm", "curve.dcm", "numbers.dcm", "tumour.dcm", "map.dcm"}
CASE_FILES = {"horizons.csv", "prediction.json", "slices.csv", "survival_curve.csv", "survival_curve.png"}


@pytest.fixture
def case(tmp_path, sphere, tiny_bundle):
    """ct/ (DICOM), ct.nrrd and mask.nrrd of the same lump, and out, which is not there yet."""
    hu, mask = sphere(shape=(16, 70, 75), spacing=maker.SPACING, radius_mm=17)
    ct = maker.write_ct(tmp_path / "ct", hu)
    for name, array in (("ct", hu), ("mask", mask)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(maker.SPACING[::-1])
        image.SetOrigin(maker.ORIGIN)
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    return SimpleNamespace(folder=tmp_path, ct=ct, mask=mask, model=tiny_bundle.folder, out=tmp_path / "out")


def predict(case, capfd, *more, image="ct", mask="mask.nrrd", out=None):
    paths = ["--image", case.folder / image, "--mask", case.folder / mask] if image else []
    code = main([str(part) for part in ("predict", *paths, "--model", case.model, "--output", out or case.out, *more)])
    return code, capfd.readouterr().err


def test_the_objects_are_in_a_folder_beside_the_other_files(case, capfd):
    code, said = predict(case, capfd, "--dicom")
    assert code == 0 and "Warning: The tumour" not in said
    assert {path.name for path in case.out.iterdir()} == CASE_FILES | {"dicom"}
    found = {path.name: pydicom.dcmread(path) for path in (case.out / "dicom").iterdir()}
    assert set(found) == ALL
    source = pydicom.dcmread(case.ct[0])
    assert {each.StudyInstanceUID for each in found.values()} == {source.StudyInstanceUID}
    assert np.array_equal(stacked(found["tumour.dcm"], maker.ijk_to_ras(), case.mask.shape), case.mask)
    shown = stacked(found["map.dcm"], maker.ijk_to_ras(), case.mask.shape)
    assert np.abs(shown).max() > 0 and not shown[case.mask == 0][:100].any()


def test_the_page_names_the_patient_and_the_terminal_says_that_files_do(case, capfd):
    _code, said = predict(case, capfd, "--dicom")
    assert "objects hold what the CT's files say of the patient" in said and "Muster" not in said
    assert pydicom.dcmread(case.out / "dicom" / "report.dcm").BurnedInAnnotation == "YES"
    others = b"".join(path.read_bytes() for path in case.out.iterdir() if path.is_file())
    assert b"Muster" not in others and b"4711" not in others
    main(["predict", "--help"])
    assert "patient's name and birth date" in " ".join(capfd.readouterr().out.split())


def test_nothing_of_another_patient_stays_in_the_folder(case, capfd):
    assert predict(case, capfd, "--dicom", "--report")[0] == 0
    for name in ("notes.txt", "dicom/other.dcm"):
        (case.out / name).write_bytes(b"CNNSurvival, but not of this software")
    assert predict(case, capfd, image="ct.nrrd")[0] == 0
    assert {path.name for path in case.out.iterdir()} == CASE_FILES | {"dicom", "notes.txt"}
    assert [path.name for path in (case.out / "dicom").iterdir()] == ["other.dcm"]
    (case.out / "dicom" / "other.dcm").unlink()
    assert predict(case, capfd, "--dicom")[0] == 0
    (case.out / "report.pdf").write_bytes(b"%PDF of somebody else")
    assert predict(case, capfd)[0] == 0
    assert {path.name for path in case.out.iterdir()} == CASE_FILES | {"report.pdf", "notes.txt"}


def test_where_another_file_cannot_be_written_no_dicom_is(case, capfd):
    (case.out / "prediction.json").mkdir(parents=True)
    code, said = predict(case, capfd, "--dicom")
    assert code == 1 and "prediction.json" in said
    assert not (case.out / "dicom").exists()


def test_the_tumour_is_the_lesions_that_were_taken(case, capfd):
    mask = case.mask.copy()
    mask[2:5, 2:9, 2:9] = 1  # another lesion
    image = sitk.GetImageFromArray(mask)
    image.CopyInformation(sitk.ReadImage(str(case.folder / "mask.nrrd")))
    sitk.WriteImage(image, str(case.folder / "two.nrrd"))
    assert predict(case, capfd, "--dicom", mask="two.nrrd")[0] == 0
    seg = case.out / "dicom" / "tumour.dcm"
    assert np.array_equal(stacked(pydicom.dcmread(seg), maker.ijk_to_ras(), mask.shape), mask)
    (case.folder / "two.dcm").write_bytes(seg.read_bytes())
    # Of a DICOM SEG with both, too: it is not the tumour, so another is written.
    assert predict(case, capfd, "--dicom", "--lesions", "largest", mask="two.dcm")[0] == 0
    assert np.array_equal(stacked(pydicom.dcmread(seg), maker.ijk_to_ras(), mask.shape), case.mask)


def test_without_the_option_there_are_none(case, capfd):
    assert predict(case, capfd)[0] == 0
    assert {path.name for path in case.out.iterdir()} == CASE_FILES


@pytest.mark.parametrize("image", ["ct/004.dcm", "ct.zip"])
def test_one_file_or_an_archive_stands_for_the_series(case, capfd, image):
    with zipfile.ZipFile(case.folder / "ct.zip", "w") as archive:
        for path in case.ct:
            archive.write(path, path.name)
    assert predict(case, capfd, "--dicom", image=image)[0] == 0
    report = pydicom.dcmread(case.out / "dicom" / "report.dcm")
    assert len(report.SourceInstanceSequence) == len(case.ct)


def test_a_ct_that_is_no_dicom_is_refused_and_nothing_is_written(case, capfd):
    code, said = predict(case, capfd, "--dicom", image="ct.nrrd")
    assert code == 2 and "ct.nrrd is not DICOM" in said and "leave out --dicom" in said
    assert not case.out.exists()


def test_a_dicom_seg_of_the_study_is_referred_to(case, capfd):
    predict(case, capfd, "--dicom")
    (case.folder / "seg.dcm").write_bytes((case.out / "dicom" / "tumour.dcm").read_bytes())
    assert predict(case, capfd, "--dicom", mask="seg.dcm", out=case.folder / "again")[0] == 0
    again = case.folder / "again" / "dicom"
    assert {path.name for path in again.iterdir()} == ALL - {"tumour.dcm"}
    segment = [i for i in items(pydicom.dcmread(again / "numbers.dcm")) if meaning(i) == "Referenced Segment"][0]
    seg = pydicom.dcmread(case.folder / "seg.dcm")
    assert segment.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID


def test_a_dicom_seg_of_another_study_is_not_referred_to(case, capfd):
    predict(case, capfd, "--dicom")
    seg = pydicom.dcmread(case.out / "dicom" / "tumour.dcm")
    seg.StudyInstanceUID = "1.2.3"
    seg.save_as(case.folder / "seg.dcm")
    assert predict(case, capfd, "--dicom", mask="seg.dcm", out=case.folder / "again")[0] == 0
    assert (case.folder / "again" / "dicom" / "tumour.dcm").exists()


def test_many_cases_have_a_folder_each_and_one_that_cannot_is_a_failure(case, capfd):
    with (case.folder / "cases.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["patient_id", "image", "mask"], ["A", "ct", "mask.nrrd"],
                                      ["B", "ct.nrrd", "mask.nrrd"]])  # fmt: skip
    more = ("--dicom", "--details", "--manifest", case.folder / "cases.csv")
    code, _said = predict(case, capfd, *more, image=None)
    assert code == 3
    assert {path.name for path in (case.out / "A" / "dicom").iterdir()} == ALL
    assert "is not DICOM" in (case.out / "failures.csv").read_text() and not (case.out / "B").exists()
    code, said = predict(case, capfd, "--dicom", "--manifest", case.folder / "cases.csv", image=None)
    assert code == 2 and "--dicom goes with --details" in said
    code, said = predict(case, capfd, "--dicom", "--segment", "1", "--segment", "2")
    assert code == 2 and "--dicom goes with --details" in said


@program("dciodvfy")
@pytest.mark.parametrize("name", ["chest-ct-rtstruct", "lung-gtv/pat_2"])
def test_real_cts_give_objects_without_errors(tmp_path, capfd, shared_data, name):
    """One has a date, a birth date and a sex that are none, the other has no study date and no study ID."""
    folder = shared_data(f"data/dicom/{name}")
    masks = [path for path in folder.iterdir() if path.name == "rtstruct.dcm" or path.name.startswith("DCM_RS")]
    segment = "GTVp" if name.startswith("chest") else "GTV-1"
    arguments = [
        "predict",
        "--image",
        folder,
        "--mask",
        masks[0],
        "--segment",
        segment,
        "--output",
        tmp_path,
        "--dicom",
    ]
    assert main([str(part) for part in arguments]) == 0
    paths = sorted((tmp_path / "dicom").iterdir())
    assert {path.name for path in paths} == ALL
    for path in paths:
        _code, said = output_of("dciodvfy", "-new", path)
        assert not [line for line in said.splitlines() if line.startswith("Error")], f"{path.name}: {said}"
