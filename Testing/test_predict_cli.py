"""``cnn-survival predict``, ``models`` and what they say to a user who got something wrong."""

import csv
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from bundle_maker import bundle_info_2, random_weights
from CNNSurvivalLib import bundle as bundles
from CNNSurvivalLib.engines import create_engine
from CNNSurvivalLib.prediction import predict
from cohort_maker import make_images
from training_cli.cli import main

CASE_FILES = ["horizons.csv", "prediction.json", "slices.csv", "survival_curve.csv", "survival_curve.png"]
BATCH_FILES = ["curves.csv", "failures.csv", "predictions.csv"]
PREDICTIONS_HEADER = (
    "patient_id,n_slices,risk_18m,survival_6m,survival_12m,survival_18m,survival_24m,survival_36m,"
    "median_survival_days,rmst_days,risk_percentile,warnings,population,inside_training_range,volume_cc,"
    "largest_area_mm2,survival_18m_ci_low,survival_18m_ci_high,covariates,model,weights_sha256"
)
SPACING = (1.0, 1.0, 3.0)


def write_image(path, array, spacing=SPACING, origin=(-40.0, -30.0, 100.0), vector=False):
    image = sitk.GetImageFromArray(array, isVector=vector)
    if image.GetDimension() == 3:
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


@pytest.fixture
def case(tmp_path, sphere):
    """A folder with ct.nrrd and mask.nrrd of one tumour."""
    hu, mask = sphere()
    write_image(tmp_path / "ct.nrrd", hu)
    write_image(tmp_path / "mask.nrrd", mask)
    return tmp_path


@pytest.fixture
def run(case, tiny_bundle, capsys):
    """run(option, value, ...) -> (exit code, stdout, stderr) of predict on the case; given options replace its own.

    "" is the value of an option that takes none.
    """

    def call(*options):
        defaults = {"--image": case / "ct.nrrd", "--mask": case / "mask.nrrd", "--model": tiny_bundle.folder,
                    "--output": case / "out"}  # fmt: skip
        given = dict(zip(options[::2], options[1::2]))
        pairs = {**defaults, **given}.items()
        arguments = [str(part) for pair in pairs if pair[1] is not None for part in pair if part != ""]
        code = main(["predict", *arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def refused(run, case):
    """refused(*options, says=[...], code=1): one sentence with these words, no traceback, nothing written."""

    def check(*options, says, code=1):
        got, out, err = run(*options)
        lines = err.strip().splitlines()
        assert got == code, err
        assert len(lines) == 1 and lines[0].startswith("Error: ") and lines[0].endswith((".", ")")), err
        for words in says:
            assert words in err
        assert "Traceback" not in err and out == ""
        assert not (case / "out").exists()

    return check


# --- One case -------------------------------------------------------------------------------------------------


def test_one_case_gives_five_files_that_say_what_the_library_says(run, case, sphere, tiny_bundle):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert sorted(p.name for p in (case / "out").iterdir()) == CASE_FILES

    hu, mask = sphere()
    expected = predict(hu, mask, np.diag([-1, -1, 3.0, 1]), tiny_bundle, create_engine("numpy", tiny_bundle))
    content = json.loads((case / "out/prediction.json").read_text())
    assert content["risk"] == expected.risk
    assert content["notice"].startswith("Research use only")
    assert content["input"]["segment"] == "1"
    with open(case / "out/survival_curve.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    np.testing.assert_array_equal([float(row["survival"]) for row in rows], expected.survival)
    with open(case / "out/slices.csv", newline="") as stream:
        assert [int(row["slice_index"]) for row in csv.DictReader(stream)] == expected.slices.slice_index.tolist()
    png = sitk.ReadImage(str(case / "out/survival_curve.png"))
    assert min(png.GetSize()) > 600 and sitk.GetArrayFromImage(png).std() > 10
    assert f"{expected.horizon_survival[2]:.0%}" in out and "Research use only" in out and tiny_bundle.id in out


def test_results_are_replaced_and_other_files_stay(run, case):
    (case / "out").mkdir()
    (case / "out/notes.txt").write_text("mine")
    (case / "out/prediction.json").write_text("old")
    assert run()[0] == 0
    first = {name: (case / "out" / name).read_bytes() for name in CASE_FILES}
    assert run()[0] == 0
    assert {name: (case / "out" / name).read_bytes() for name in CASE_FILES} == first
    assert sorted(p.name for p in (case / "out").iterdir()) == sorted([*CASE_FILES, "notes.txt"])


def test_options_reach_the_prediction(run, case):
    assert run("--min-roi", 100, "--max-slices", 2, "--segment", "1")[0] == 0
    content = json.loads((case / "out/prediction.json").read_text())
    assert content["n_slices"] == 2
    assert content["provenance"]["parameters"]["min_roi_px"] == 100


def test_torch_engine_gives_the_same_curve(run, case):
    pytest.importorskip("torch")
    risks = []
    for engine in ("numpy", "torch"):
        assert run("--engine", engine, "--output", case / engine)[0] == 0
        risks.append(json.loads((case / engine / "prediction.json").read_text())["risk"])
    assert risks[0] == pytest.approx(risks[1], abs=1e-5)


def test_warnings_are_said_once_and_kept(run, case, sphere):
    hu, mask = sphere()
    write_image(case / "mr.nrrd", (hu.astype(int) + 2000).astype(np.uint16))
    write_image(case / "shifted.nrrd", mask, origin=(-39.6, -30.0, 100.0))
    code, out, err = run("--image", case / "mr.nrrd", "--mask", case / "shifted.nrrd")
    assert (code, out) == (1, "") and "Hounsfield" in err and "--force" in err and not (case / "out").exists()
    code, _, err = run("--image", case / "mr.nrrd", "--mask", case / "shifted.nrrd", "--force", "")
    assert code == 0
    assert err.count("Hounsfield") == 1 and err.count("grid") >= 1
    assert all(line.startswith("Warning: ") for line in err.splitlines())
    kept = json.loads((case / "out/prediction.json").read_text())["warnings"]
    assert [f"Warning: {text}" for text in kept] == err.splitlines()


# --- Populations and covariates -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def two_populations(tmp_path_factory):
    """A bundle with the populations here (the default) and there."""
    return bundles.save_bundle(tmp_path_factory.mktemp("bundles") / "two", bundle_info_2(), random_weights())


def predicted(case):
    return json.loads((case / "out/prediction.json").read_text())


def test_the_population_is_chosen_and_the_default_is_named(run, case, two_populations):
    model = ("--model", two_populations.folder)
    code, out, _ = run(*model)
    assert code == 0 and "Population: Patients from here (the model's default; choose with --population)" in out
    here = predicted(case)
    code, out, _ = run(*model, "--population", "there")
    assert code == 0 and "Population: Patients from there\n" in out
    there = predicted(case)
    assert [p["population"]["name"] for p in (here, there)] == ["here", "there"]
    assert there["risk"] < here["risk"] and there["provenance"]["population"] == "there"


def test_an_unknown_population_is_refused_with_those_that_there_are(refused, two_populations):
    options = ("--model", two_populations.folder, "--population", "elsewhere")
    refused(*options, says=["no population 'elsewhere'", "here, there"], code=2)


def test_covariates_by_their_shortcuts_and_by_name(run, case, two_populations):
    model = ("--model", two_populations.folder)
    assert run(*model)[0] == 0 and predicted(case)["covariates"] == {}
    plain = predicted(case)["risk"]
    code, out, err = run(*model, "--age", "80", "--n-stage", "N2b")
    assert code == 0 and "age 80 years, N stage N2" in out and "not used" not in err
    short = predicted(case)
    assert short["covariates"] == {"age_years": 80.0, "n_stage": 2.0} and short["risk"] > plain
    assert run(*model, "--covariate", "AGE=80", "--n-stage", "2")[0] == 0
    assert predicted(case)["risk"] == short["risk"]


def test_what_the_population_does_not_take_is_said(run, case, two_populations, tiny_bundle):
    code, _, err = run("--model", two_populations.folder, "--hpv", "positive")
    assert code == 0 and predicted(case)["covariates"] == {}
    says = "hpv was not used; the covariates of the population 'Patients from here' are: age_years, n_stage."
    assert err.count(says) == 1
    code, _, err = run("--age", "63", "--hpv", "-")
    assert code == 0 and "age_years, hpv were not used; " in err and err.rstrip().endswith("are: none.")


def test_impossible_covariates_are_refused(refused, capsys, two_populations):
    refused("--model", two_populations.folder, "--age", "7", says=["age '7'", "18 to 110"], code=2)
    refused("--model", two_populations.folder, "--n-stage", "5", says=["N0, N1, N2, N3"], code=2)
    assert main(["predict", "--image", "a", "--mask", "b", "--output", "o", "--covariate", "age"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_horizons_and_report(run, case, capsys):
    code, out, _ = run("--horizons", "9,30", "--report", "")
    assert code == 0 and "Survival at 9 months" in out and "Survival at 30 months" in out
    assert list(predicted(case)["survival_at_months"]) == ["9", "30"]
    assert sorted(p.name for p in (case / "out").iterdir()) == sorted([*CASE_FILES, "report.pdf"])
    assert (case / "out/report.pdf").read_bytes().startswith(b"%PDF-1.4")
    assert main(["predict", "--image", "a", "--mask", "b", "--output", "o", "--horizons", "soon"]) == 2
    assert "not a list of months" in capsys.readouterr().err


def test_the_folders_of_the_input_are_not_told(run, case):
    (case / "Zq7Secret").mkdir()
    for name in ("ct.nrrd", "mask.nrrd"):
        os.rename(case / name, case / "Zq7Secret" / name)
    given = ("--image", case / "Zq7Secret/ct.nrrd", "--mask", case / "Zq7Secret/mask.nrrd", "--report", "")
    assert run(*given)[0] == 0
    assert json.loads((case / "out/prediction.json").read_text())["input"]["image"] == "ct.nrrd"
    for path in (case / "out").iterdir():
        assert b"Zq7Secret" not in path.read_bytes()


def test_another_modality_is_refused_unless_forced(refused, run, case, sphere):
    write_series(case / "dicom", sphere()[0])
    for path in (case / "dicom").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.Modality = "MR"
        dataset.save_as(path)
    refused("--image", case / "dicom", says=["modality MR", "--force"])
    code, _, err = run("--image", case / "dicom", "--force", "")
    assert code == 0 and "Warning: The series is of modality MR" in err


def test_rows_of_a_manifest_have_their_population_and_covariates(batch, case, two_populations):
    rows = (
        "patient_id,image,mask,Age,n_stage,Population\n"
        "a,ct.nrrd,mask.nrrd,,,\nb,ct.nrrd,mask.nrrd,60,N1,here\nc,ct.nrrd,mask.nrrd,,,there\n"
        "d,ct.nrrd,mask.nrrd,,,nowhere\ne,ct.nrrd,mask.nrrd,7,,\n"
    )
    model = ("--model", two_populations.folder)
    code, out, _, done, failed = batch(rows, *model)
    assert code == 3 and "Population: Patients from here (the model's default" in out
    found = [(row["patient_id"], row["population"]) for row in done]
    assert found == [("a", "here"), ("b", "here"), ("c", "there"), ("e", "here")]
    assert [row["covariates"] for row in done] == ["", "age 60 years, N stage N1", "", ""]
    assert len(failed) == 1 and "no population 'nowhere'" in failed[0]["reason"]
    # An impossible age does not cost the prediction: the image is enough, and the warning says so.
    assert "18 to 110" in done[3]["warnings"] and "It was left out." in done[3]["warnings"]
    assert float(done[2]["risk_18m"]) < float(done[0]["risk_18m"])
    # For all rows that do not say: with the command line
    code, out, err, done, _ = batch(rows, *model, "--population", "there", "--age", "70", "--hpv", "+")
    assert ", where the manifest names none\n" in out
    assert [row["population"] for row in done] == ["there", "here", "there", "there"]
    assert [row["covariates"] for row in done] == ["age 70 years", "age 60 years, N stage N1", "age 70 years", ""]
    assert err.count("hpv was not used") == 1
    code, _, err, done, failed = batch(rows, *model, "--population", "nowhere")
    assert code == 2 and "no population 'nowhere'" in err


# --- Bad input ------------------------------------------------------------------------------------------------


def test_usage_errors_exit_2(run, capsys, case):
    for options, words in [
        (["predict", "--output", "o"], "--image and --mask"),
        (["predict", "--image", "a", "--output", "o"], "--mask"),
        (["predict", "--image", "a", "--manifest", "b", "--output", "o"], "--image does not go with --manifest"),
        (["predict", "--image", "a", "--mask", "b"], "--output"),
        (["predict", "--image", "a", "--mask", "b", "--output", "o", "--jobs", "2"], "--manifest"),
        (["predict", "--image", "a", "--mask", "b", "--output", "o", "--min-roi", "0"], "1 or more"),
        (["predict", "--image", "a", "--mask", "b", "--output", "o", "--engine", "onnx"], "numpy"),
        (["foresee"], "foresee"),
        ([], "COMMAND"),
    ]:
        assert main(options) == 2
        err = capsys.readouterr().err
        assert words in err and "Traceback" not in err
    assert not Path("o").exists()


def test_missing_files(refused, case):
    refused("--image", case / "absent.nrrd", says=["absent.nrrd", "not exist"], code=2)
    refused("--mask", case / "absent.nrrd", says=["absent.nrrd", "not exist"], code=2)
    refused("--model", "no-such-model", says=["no-such-model", "neither a folder nor the id"], code=2)


def test_damaged_and_foreign_models(refused, case, tiny_bundle):
    (case / "model").mkdir()
    refused("--model", case / "model", says=["not a model folder", "bundle.json"])
    for name in ("bundle.json", "weights.npz"):
        (case / "model" / name).write_bytes((tiny_bundle.folder / name).read_bytes())
    content = bytearray((case / "model/weights.npz").read_bytes())
    content[1000] ^= 1
    (case / "model/weights.npz").write_bytes(content)
    refused("--model", case / "model", says=["SHA-256"])


def test_files_that_are_no_images(refused, case):
    (case / "text.nrrd").write_text("not an image")
    (case / "cut.nrrd").write_bytes((case / "ct.nrrd").read_bytes()[:5000])
    for name in ("text.nrrd", "cut.nrrd"):
        refused("--image", case / name, says=[name, "damaged"])
        refused("--mask", case / name, says=[name, "damaged"])


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mha", "nrrd"])
def test_files_cut_short_are_not_read_as_half_a_volume(refused, case, sphere, suffix):
    whole = write_image(case / f"whole.{suffix}", sphere()[0])
    (case / f"cut.{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    refused("--image", case / f"cut.{suffix}", says=["cut.", "damaged"])


def test_colour_and_4d_images(refused, run, case, sphere):
    hu, _ = sphere()
    write_image(case / "colour.nrrd", np.stack([hu] * 3, axis=-1), vector=True)
    refused("--image", case / "colour.nrrd", says=["colour"])
    series = sitk.JoinSeries([sitk.ReadImage(str(case / "ct.nrrd"))] * 2)
    sitk.WriteImage(series, str(case / "4d.nii"))
    refused("--image", case / "4d.nii", says=["4 dimensions"])
    sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(str(case / "ct.nrrd"))]), str(case / "single.nii"))
    assert run("--image", case / "single.nii")[0] == 0


def test_empty_mask_and_too_small_a_tumour(refused, case, sphere):
    hu, mask = sphere()
    write_image(case / "empty.nrrd", mask * 0)
    refused("--mask", case / "empty.nrrd", says=["empty"])
    _, small = sphere(radius_mm=6)
    write_image(case / "small.nrrd", small)
    refused("--mask", case / "small.nrrd", says=["--min-roi", "250"])


def test_choosing_a_label(refused, run, case, sphere):
    _, mask = sphere()
    mask[:4, :4, :4] = 3
    write_image(case / "two.nrrd", mask)
    refused("--mask", case / "two.nrrd", says=["1", "3", "--segment"], code=2)
    refused("--mask", case / "two.nrrd", "--segment", "7", says=["'7'", "1", "3"], code=2)
    assert run("--mask", case / "two.nrrd", "--segment", "1")[0] == 0


def test_a_mask_elsewhere(refused, case, sphere):
    _, mask = sphere()
    write_image(case / "far.nrrd", mask, origin=(1000.0, 0.0, 0.0))
    refused("--mask", case / "far.nrrd", says=["outside the CT"])


def test_nan_in_the_tumour_is_refused_and_elsewhere_a_warning(refused, run, case, sphere):
    hu, mask = sphere()
    hu = hu.astype(np.float32)
    hu[0, 0, 0] = np.inf
    code, _, err = run("--image", write_image(case / "edge.nrrd", hu))
    assert code == 0 and "NaN or infinite" in err
    for file in (case / "out").iterdir():
        file.unlink()
    (case / "out").rmdir()
    hu[12, 48, 48] = np.nan
    refused("--image", write_image(case / "nan.nrrd", hu), says=["NaN", "tumour"])


def test_an_output_folder_that_cannot_be_written(run, case):
    (case / "file").write_text("in the way")
    code, _, err = run("--output", case / "file" / "out")
    assert code == 1 and "cannot be written" in err and "Traceback" not in err


def test_debug_shows_the_traceback(case, tiny_bundle, capsys):
    options = ["--image", case / "ct.nrrd", "--mask", case / "none", "--output", case / "out", "--debug"]
    assert main(["predict", "--model", str(tiny_bundle.folder), *map(str, options)]) == 2
    assert "Traceback" in capsys.readouterr().err


# --- DICOM ----------------------------------------------------------------------------------------------------


def write_series(folder, hu, series_uid=None, frame_uid=None, description="", skip=()):
    """A CT series of the array, 1 x 1 x 3 mm, patient "Secret^Name"; returns its SeriesInstanceUID."""
    folder.mkdir(exist_ok=True)
    series_uid, frame_uid = series_uid or generate_uid(), frame_uid or generate_uid()
    for k, plane in enumerate(hu):
        if k in skip:
            continue
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.PatientName, ds.PatientID = "Secret^Name", "SECRET-ID"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(), series_uid, frame_uid
        ds.Modality, ds.SeriesDescription, ds.InstanceNumber = "CT", description, k + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-40, -30, 100 + 3 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1, 1], 3
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = (plane.astype(np.int16) + 1024).tobytes()
        ds.save_as(folder / f"{series_uid[-6:]}_{k:03}.dcm", enforce_file_format=True)
    return series_uid


def test_a_dicom_folder_gives_what_the_file_gives_and_names_no_patient(run, case, sphere):
    write_series(case / "dicom", sphere()[0])
    assert run()[0] == 0
    from_file = json.loads((case / "out/prediction.json").read_text())
    code, out, err = run("--image", case / "dicom")
    assert (code, err) == (0, "")
    content = (case / "out/prediction.json").read_text()
    assert json.loads(content)["risk"] == from_file["risk"]
    everything = b"".join((case / "out" / name).read_bytes() for name in CASE_FILES) + (out + err).encode()
    assert b"secret" not in everything.lower()


def test_two_series_in_a_folder_are_a_choice(refused, run, case, sphere):
    hu, _ = sphere()
    first = write_series(case / "dicom", hu, description="thin")
    second = write_series(case / "dicom", hu[:20], description="thick")
    both = [first, second, "24 slices", "20 slices", "thin", "thick"]
    refused("--image", case / "dicom", says=["--series-uid", *both], code=2)
    refused("--image", case / "dicom", "--series-uid", "1.2.3", says=["1.2.3", *both], code=2)
    assert run("--image", case / "dicom", "--series-uid", first)[0] == 0


def test_a_missing_slice_is_a_warning(run, case, sphere):
    write_series(case / "dicom", sphere()[0], skip=[12])
    code, _, err = run("--image", case / "dicom")
    assert code == 0
    assert "Warning: " in err and "slice" in err and "133" in err and "139" in err
    with open(case / "out/slices.csv", newline="") as stream:
        place = {int(row["slice_index"]): float(row["center_s_mm"]) for row in csv.DictReader(stream)}
    assert all(s == pytest.approx(100 + 3 * k) for k, s in place.items())


def write_rtstruct(path, series_uid, frame_uid, names=("GTVp", "Heart")):
    """A cylinder of 20 mm radius on every slice from z = 112 to 154 for each name."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.stack([7.5 + 20 * np.cos(angle), 17.5 + 20 * np.sin(angle)], axis=1)
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = RTStructureSetStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = "Secret^Name", "SECRET-ID", "RTSTRUCT"
    series, study, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    series.SeriesInstanceUID, frame.FrameOfReferenceUID = series_uid, frame_uid
    study.RTReferencedSeriesSequence, frame.RTReferencedStudySequence = [series], [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, name in enumerate(names, 1):
        roi, contours = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName, contours.ReferencedROINumber = number, name, number
        contours.ContourSequence = []
        for z in range(112, 155, 3):
            contour = pydicom.Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(circle)
            contour.ContourData = np.column_stack([circle, np.full(len(circle), z)]).ravel().round(3).tolist()
            contours.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(contours)
    ds.save_as(path, enforce_file_format=True)
    return path


def test_structures_by_name_and_rtstructs_of_another_series(refused, run, case, sphere):
    frame = generate_uid()
    uid = write_series(case / "dicom", sphere()[0], frame_uid=frame)
    ct, own = ("--image", case / "dicom"), write_rtstruct(case / "own.dcm", uid, frame)
    refused(*ct, "--mask", own, says=["--segment", "'GTVp'", "'Heart'"], code=2)
    refused(*ct, "--mask", own, "--segment", "Lung", says=["'Lung'", "'GTVp'", "'Heart'"], code=2)
    other = generate_uid()
    foreign = write_rtstruct(case / "foreign.dcm", other, generate_uid())
    refused(*ct, "--mask", foreign, "--segment", "GTVp", says=["another", other])
    near = write_rtstruct(case / "near.dcm", other, frame)
    code, _, err = run(*ct, "--mask", near, "--segment", "GTVp")
    assert code == 0 and "Warning: " in err and "another series" in err
    code, _, err = run(*ct, "--mask", own, "--segment", "gtvp")
    assert (code, err) == (0, "")
    content = json.loads((case / "out/prediction.json").read_text())
    assert content["input"]["segment"] == "GTVp" and content["n_slices"] == 15
    assert content["slices"][0]["area_px"] == pytest.approx(np.pi * 20**2, rel=0.02)


def test_several_structures_in_one_run_give_a_row_each(run, case, sphere, tiny_bundle, capsys):
    model, frame = tiny_bundle.folder, generate_uid()
    uid = write_series(case / "dicom", sphere()[0], frame_uid=frame)
    names = ("GTV-1", "Heart", "gtv-2", "Empty")
    own = write_rtstruct(case / "own.dcm", uid, frame, names)
    ds = pydicom.dcmread(own)
    ds.ROIContourSequence[3].ContourSequence = []
    ds.save_as(own)
    ct = ("--image", case / "dicom", "--mask", own)
    assert run(*ct, "--segment", "Heart")[0] == 0
    risk = json.loads((case / "out/prediction.json").read_text())["risk"]

    def rows(*segments):
        code = main([*map(str, ["predict", *ct, "--model", model, "--output", case / "many", *segments])])
        return code, [list(csv.DictReader((case / "many" / f"{name}.csv").read_text().splitlines()))
                      for name in ("predictions", "failures")]  # fmt: skip

    code, (done, failed) = rows("--segment", "GTV*", "--details")
    assert code == 0 and [row["segment"] for row in done] == ["GTV-1", "gtv-2"] and not failed
    assert list(done[0]) == [*PREDICTIONS_HEADER.split(","), "segment"]
    assert sorted(p.name for p in (case / "many").iterdir() if p.is_dir()) == ["GTV-1", "gtv-2"]
    assert float(done[0]["risk_18m"]) == pytest.approx(risk) and done[0]["warnings"] == ""
    code, (done, failed) = rows("--segment", "empty", "--segment", "Heart", "--jobs", "2")
    assert code == 3 and [row["segment"] for row in done] == ["Heart"]
    assert [row["segment"] for row in failed] == ["Empty"] and "no closed contours" in failed[0]["reason"]
    for wanted, words in [("Lung*", "No structure of the mask"), ("Lung", "has no structure 'Lung'")]:
        code = main([*map(str, ["predict", *ct, "--model", model, "--output", case / "none", "--segment", "GTV-1",
                                "--segment", wanted])])  # fmt: skip
        assert code == 2 and not (case / "none").exists() and words in capsys.readouterr().err


# --- Manifests ------------------------------------------------------------------------------------------------


@pytest.fixture
def batch(case, tiny_bundle, capsys):
    """batch(text or bytes of the manifest, *options) -> (exit code, stdout, stderr, predictions, failures).

    In this process unless the options say more --jobs.
    """

    def call(content, *options):
        (case / "cases.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        arguments = ["--manifest", case / "cases.csv", "--output", case / "out", "--model", tiny_bundle.folder]
        code = main(["predict", *map(str, [*arguments, "--jobs", 1, *options])])
        tables = []
        for name in ("predictions.csv", "failures.csv"):
            path = case / "out" / name
            tables.append(list(csv.DictReader(path.read_text().splitlines())) if path.exists() else None)
        return code, *capsys.readouterr(), *tables

    return call


def test_a_batch_goes_on_past_bad_cases(batch, case, sphere):
    _, mask = sphere()
    write_image(case / "empty.nrrd", mask * 0)
    (case / "broken.nrrd").write_text("x")
    code, out, err, done, failed = batch(
        "patient_id,age,image,mask,segment\n"
        "a,70,ct.nrrd,mask.nrrd,\n"
        "b,71,ct.nrrd,empty.nrrd,\n"
        "c,72,broken.nrrd,mask.nrrd,\n"
        "d,73,ct.nrrd,absent.nrrd,\n"
        "e,74,ct.nrrd,mask.nrrd,9\n"
        "f,75,,mask.nrrd,\n"
        "\n"
        "g,76,ct.nrrd,mask.nrrd,1\n"
    )
    assert code == 3
    assert (case / "out/predictions.csv").read_text().splitlines()[0] == f"{PREDICTIONS_HEADER},age"
    assert [row["patient_id"] for row in done] == ["a", "g"]
    assert done[0] == {**done[1], "patient_id": "a", "age": "70"} and done[1]["age"] == "76"
    assert float(done[0]["risk_18m"]) == pytest.approx(1 - float(done[0]["survival_18m"]))
    assert list(failed[0]) == ["patient_id", "image", "mask", "reason"]
    assert [row["patient_id"] for row in failed] == ["b", "c", "d", "e", "f"]
    for row, words in zip(failed, ["empty", "damaged", "not exist", "'9'", "no image"]):
        assert words in row["reason"]
    assert failed[0]["mask"] == "empty.nrrd"
    assert "2 of 7" in out and "5 failed" in out and "Traceback" not in err
    assert sorted(p.name for p in (case / "out").iterdir()) == BATCH_FILES


def test_a_batch_without_failures_exits_0_and_clears_old_failures(batch, case):
    (case / "out").mkdir()
    (case / "out/failures.csv").write_text("patient_id,image,mask,reason\nold,a,b,c\n")
    code, _, err, done, failed = batch("image,mask\nct.nrrd,mask.nrrd\n")
    assert (code, len(done), failed) == (0, 1, [])
    assert done[0]["patient_id"] == "case-1"
    assert "1/1" in err


def test_tables_as_excel_writes_them(batch, case):
    os.rename(case / "ct.nrrd", case / "ct, möglich.nrrd")
    text = 'Patient_ID;Image;Mask\r\n007;"ct, möglich.nrrd";mask.nrrd\r\n'
    for content in (b"\xef\xbb\xbf" + text.encode(), text.encode("cp1252"), text.replace(";", "\t").encode()):
        code, _, _, done, failed = batch(content)
        assert (code, failed) == (0, [])
        assert done[0]["patient_id"] == "007"


def test_patients_that_occur_twice_are_both_predicted_with_a_warning(batch):
    code, _, err, done, _ = batch("patient_id,image,mask\na,ct.nrrd,mask.nrrd\na,ct.nrrd,mask.nrrd\n", "--details")
    assert code == 0
    assert err.count("rows 1, 2") == 1
    assert [row["patient_id"] for row in done] == ["a", "a"]
    assert all("rows 1, 2" in row["warnings"] for row in done)


def test_manifests_that_cannot_be_used(batch, case):
    for content, words in [
        ("patient_id,image\na,ct.nrrd\n", "no column 'mask'"),
        ("image,mask\n", "no rows"),
        ("", "empty"),
        ("Patient,Image\na,ct.nrrd\n", "no column 'mask'; it has: Patient, Image"),
        ("image,mask,Mask\na,b,c\n", "has the column 'mask' twice"),
        (b"PK\x03\x04\0\0\0", "not a text file"),
    ]:
        code, out, err, _, _ = batch(content)
        assert code == 2 and words in err and "Traceback" not in err
        assert not (case / "out").exists()


def test_several_jobs_give_the_same_tables(batch, case):
    rows = "patient_id,image,mask\n" + "".join(
        f"p{n},ct.nrrd,{'absent' if n == 1 else 'mask'}.nrrd\n" for n in range(3)
    )
    assert batch(rows, "--max-slices", 1)[0] == 3
    one = [(case / "out" / name).read_bytes() for name in ("predictions.csv", "failures.csv")]
    assert batch(rows, "--max-slices", 1, "--jobs", 2)[0] == 3
    assert [(case / "out" / name).read_bytes() for name in ("predictions.csv", "failures.csv")] == one


def test_details_writes_each_case_into_its_own_folder(batch, case):
    code, _, _, _, _ = batch(
        "patient_id,image,mask\n../../x,ct.nrrd,mask.nrrd\nb,ct.nrrd,mask.nrrd\nb,ct.nrrd,absent\n", "--details"
    )
    assert code == 3
    folders = sorted(p for p in (case / "out").iterdir() if p.is_dir())
    assert [p.name for p in folders] == ["b", "x"]
    for folder in folders:
        assert sorted(p.name for p in folder.iterdir()) == CASE_FILES


def test_stopping_a_batch_keeps_what_is_done(batch, case, monkeypatch):
    from CNNSurvivalLib import batch as module

    real, calls = module.read_case, []

    def stop_at_the_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "read_case", stop_at_the_second)
    rows = "".join(f"{n},ct.nrrd,mask.nrrd\n" for n in "abc")
    code, out, err, done, failed = batch(f"patient_id,image,mask\n{rows}")
    assert code == 130 and "Traceback" not in err
    assert "1 of 3 cases predicted" in out and "Stopped before the end: 2 not done." in out and "failed" not in out
    assert [row["patient_id"] for row in done] == ["a"]
    assert [(row["patient_id"], row["reason"][:8]) for row in failed] == [("b", "Not done"), ("c", "Not done")]


def test_a_users_own_batch_can_be_scored_as_it_is(tmp_path, tiny_bundle, capsys):
    """predict a manifest with follow-up, then evaluate what it wrote; the same numbers as from a table by hand."""
    manifest = make_images(tmp_path / "images", 8) / "manifest.csv"
    text = manifest.read_text().replace("patient_id,", "Patient_ID,", 1).replace("s003,", "=3,")
    manifest.write_text(text)
    predict_it = ["predict", "--manifest", manifest, "--model", tiny_bundle.folder, "--output", tmp_path / "out"]
    assert main([str(part) for part in predict_it]) == 3  # one tumour is too small
    predictions = tmp_path / "out" / "predictions.csv"
    with open(predictions, newline="") as stream:
        rows = list(csv.DictReader(stream))
    header = [*PREDICTIONS_HEADER.split(","), "time_days", "event", "cohort", "age_years", "t_stage"]
    assert list(rows[0]) == header
    given = {row["Patient_ID"]: row for row in csv.DictReader(text.splitlines())}
    assert len(rows) == 7 and rows[3]["patient_id"] == "'=3"
    for row in rows:
        assert [row[name] for name in ("time_days", "event")] == [
            given[row["patient_id"].strip("'")][name] for name in ("time_days", "event")
        ]
    score = ["evaluate", "--bootstrap", "20", "--predictions"]
    assert main([*score, str(predictions), "--output", str(tmp_path / "own")]) == 0
    by_hand = tmp_path / "hand.csv"
    lines = [f"{n},{row['time_days']},{row['event']},{row['risk_18m']}" for n, row in enumerate(rows)]
    by_hand.write_text("\n".join(["patient_id,time_days,event,risk_547.875", *lines]))
    assert main([*score, str(by_hand), "--output", str(tmp_path / "hand")]) == 0
    assert "does not ship with this software, so it was not checked" in capsys.readouterr().out
    metrics = (tmp_path / "own" / "metrics.csv").read_bytes()
    assert metrics == (tmp_path / "hand" / "metrics.csv").read_bytes() and b"547.875" in metrics
    # Follow-up from a table of its own, which also lacks one patient
    without = tmp_path / "without.csv"
    without.write_text("\n".join(",".join(line.split(",")[:3]) for line in predictions.read_text().splitlines()))
    capsys.readouterr()
    assert main([*score, str(without), "--output", str(tmp_path / "none")]) == 2
    assert "no column 'time_days'" in (error := capsys.readouterr().err) and "--clinical" in error
    call = [*score, str(without), "--output", str(tmp_path / "table"), "--clinical"]
    assert main([*call, str(manifest)]) == 0
    assert (tmp_path / "table" / "metrics.csv").read_bytes() == metrics
    manifest.write_text("\n".join(line for line in text.splitlines() if not line.startswith("s001")))
    capsys.readouterr()
    assert main([*call, str(manifest)]) == 0
    out = capsys.readouterr().out
    assert "1 of 7 patients have no row" in out and "s001" in out and "6 patients" in out
    manifest.write_text("patient_id,time_days,event\nnobody,5,1\n")
    assert main([*call, str(manifest)]) == 2
    assert "No patient of the predictions" in capsys.readouterr().err


def test_a_batch_is_scored_at_the_months_that_were_asked_for(tmp_path, tiny_bundle, capsys):
    manifest = make_images(tmp_path / "images", 8) / "manifest.csv"
    call = ["predict", "--manifest", manifest, "--model", tiny_bundle.folder, "--output", tmp_path / "out"]
    assert main([*map(str, call), "--horizons", "7,12,18.5", "--details"]) == 3
    with open(tmp_path / "out" / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[len(PREDICTIONS_HEADER.split(",")) :][:3] == ["survival_7m", "survival_18.5m", "time_days"]
    for row in rows:
        with open(tmp_path / "out" / row["patient_id"] / "horizons.csv", newline="") as stream:
            alone = [float(each["survival"]) for each in csv.DictReader(stream)]
        assert [float(row[f"survival_{m}m"]) for m in ("7", "12", "18.5")] == pytest.approx(alone, abs=1e-12)
        assert (row["model"], row["weights_sha256"]) == (tiny_bundle.id, tiny_bundle.sha256)
    score = ["evaluate", "--bootstrap", "0", "--predictions", str(tmp_path / "out" / "predictions.csv"), "--output"]
    capsys.readouterr()
    assert main([*score, str(tmp_path / "own"), "--horizons", "365.25,547.875"]) == 0
    by_hand = tmp_path / "hand.csv"
    lines = [f"{row['patient_id']},{row['time_days']},{row['event']},{1 - float(row['survival_12m'])},{row['risk_18m']}"
             for row in rows]  # fmt: skip
    by_hand.write_text("\n".join(["patient_id,time_days,event,risk_365.25,risk_547.875", *lines]))
    assert main([*score[:4], str(by_hand), "--output", str(tmp_path / "hand")]) == 0
    found, expected = (list(csv.DictReader((tmp_path / name / "metrics.csv").read_text().splitlines()))
                       for name in ("own", "hand"))  # fmt: skip
    assert [(row["metric"], row["horizon_days"]) for row in found] == [
        (row["metric"], row["horizon_days"]) for row in expected
    ]
    values = [[float(row["value"]) for row in rows] for rows in (found, expected)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    capsys.readouterr()
    assert main([*score, str(tmp_path / "no"), "--horizons", "12"]) == 2
    assert "12 are days; 12 months are 365.25 days." in capsys.readouterr().err


def test_scores_of_patients_that_the_model_learned_from_are_refused(tmp_path, capsys):
    from CNNSurvivalLib.api import load_model
    from training_cli.training import runs

    bundle = load_model("lung-head-neck")
    known = runs.learned_from(runs.network_for("lung-head-neck"))
    taken = [name for n in range(1, 423) if runs.patients_sha256([name := f"p{n:03d}"])[0] in known][:3]
    tail = f"{bundle.population.name},{bundle.id},{bundle.sha256}"

    def score(names, *options):
        lines = [f"{name},{100 * n + 400},{n % 2},0.{n + 1},{tail}" for n, name in enumerate(names)]
        header = "patient_id,time_days,event,risk_18m,population,model,weights_sha256"
        (tmp_path / "p.csv").write_text("\n".join([header, *lines]))
        call = ["evaluate", "--bootstrap", "0", "--predictions", tmp_path / "p.csv", "--output", tmp_path / "out"]
        return main([*map(str, call), *options]), capsys.readouterr()

    others = [f"new-{n}" for n in range(5)]
    code, said = score([*taken, *others])
    assert code == 2 and not (tmp_path / "out").exists()
    assert "the ids of 3 of the 8 patients" in said.err and "--also-trained-on" in said.err
    assert score([*taken, *others], "--also-trained-on")[0] == 0
    code, said = score(others)
    assert code == 0 and "not checked" not in said.out


def test_follow_up_with_a_decimal_comma(tmp_path, capsys, batch):
    lines = ["patient_id;time_days;event;risk_18m", *(f"p{n};{2000 + n},5;{n % 2};0,{n + 1}5" for n in range(6))]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    call = ["evaluate", "--bootstrap", "0", "--predictions", str(tmp_path / "p.csv"), "--output"]
    assert main([*call, str(tmp_path / "comma")]) == 0
    (tmp_path / "p.csv").write_text("\n".join(lines).replace(",", "."))
    assert main([*call, str(tmp_path / "point")]) == 0
    assert (tmp_path / "comma/metrics.csv").read_bytes() == (tmp_path / "point/metrics.csv").read_bytes()
    (tmp_path / "p.csv").write_text("\n".join(lines).replace("2000,5", "2,000"))
    assert main([*call, str(tmp_path / "no")]) == 2  # 2 days or 2000
    assert "has the time '2,000'" in capsys.readouterr().err
    _, _, err, done, _ = batch("image;mask;time_days\nct.nrrd;mask.nrrd;2572,5\nct.nrrd;mask.nrrd;2,000\n")
    assert [row["time_days"] for row in done] == ["2572,5", "2,000"]
    assert "'2,000' (time_days of case-2) is no number of days" in err and "2572" not in err


def test_series_uid_of_a_manifest_chooses_the_series(batch, case, sphere):
    hu, _ = sphere()
    first = write_series(case / "dicom", hu)
    write_series(case / "dicom", hu[:20])
    code, _, _, done, failed = batch(
        f"patient_id,image,mask,Series_UID\na,dicom,mask.nrrd,{first}\nb,dicom,mask.nrrd,\nc,ct.nrrd,mask.nrrd,\n"
    )
    assert code == 3 and [row["patient_id"] for row in done] == ["a", "c"]
    assert done[0]["risk_18m"] == done[1]["risk_18m"]
    assert "--series-uid" in failed[0]["reason"]


# --- models and the rest --------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path, tiny_bundle, monkeypatch):
    """A models folder that holds the test bundle alone, as the default."""
    folder = tmp_path / "Models"
    bundles.save_bundle(folder / "one", *_content(tiny_bundle))
    (folder / "default.txt").write_text("one\n")
    monkeypatch.setattr(bundles, "shipped_models_folder", lambda: folder)
    from CNNSurvivalLib import api

    monkeypatch.setattr(api, "shipped_models_folder", lambda: folder)
    return folder


def _content(bundle):
    info = {k: v for k, v in bundle.info.items() if k not in ("format", "format_version", "weights_sha256")}
    return info, bundle.weights


def test_models_lists_what_ships(shipped, capsys):
    assert main(["models"]) == 0
    assert "* random-1.0: Random weights, for tests" in capsys.readouterr().out
    (shipped / "one/weights.npz").write_bytes(b"")
    assert main(["models"]) == 0
    assert "* one: The model in" in capsys.readouterr().out


def test_models_lists_populations(shipped, two_populations, capsys):
    bundles.save_bundle(shipped / "two", *_content(two_populations))
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "population: here (default): Patients from here; 100 invented patients of here; covariates: " in out
    assert "covariates: age_years, n_stage; 95% interval" in out and "population: there: Patients from there" in out
    assert "population: 100 invented patients\n" in out  # of version 1
    assert main(["models", "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)
    assert [p["name"] for p in one["populations"]] == ["reference-cohort"]
    assert two["populations"] == two_populations.info["populations"]


def test_the_default_model_and_models_by_id(shipped, run):
    for model in (None, "random-1.0", "one"):
        assert run("--model", model)[0] == 0


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cnn-survival ")
    assert main(["predict", "--help"]) == 0
    text = capsys.readouterr().out
    for words in ("--manifest", "RTSTRUCT", "failures.csv", "exit codes"):
        assert words in text


def test_help_does_not_wait_for_the_image_libraries():
    code = "import sys; from training_cli.cli import main; main(['--help']); print('SimpleITK' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# --- Real data ------------------------------------------------------------------------------------------------


def test_the_real_chest_ct_with_its_rtstruct(shared_data, run, case):
    folder = shared_data("data/dicom/chest-ct-rtstruct")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code, _, err = run("--image", folder, "--mask", folder / "rtstruct.dcm", "--segment", "GTVp")
    assert code == 0
    content = json.loads((case / "out/prediction.json").read_text())
    assert (content["n_slices"], content["n_slices_with_roi"]) == (17, 17)
    assert content["input"]["segment"] == "GTVp"
    assert "Warning: The RTSTRUCT" in err and "series" in err


def test_a_batch_of_real_patients_with_their_empty_masks(shared_data, batch, case):
    folder = shared_data("data/nsclc")
    with open(folder / "manifest.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    empty = {row["patient_id"] for row in rows if _is_empty(folder / row["mask"])}
    chosen = [row for row in rows if row["patient_id"] in sorted(empty)[:2]] + [r for r in rows[:22]]
    chosen = list({row["patient_id"]: row for row in chosen}.values())
    lines = [f"{r['patient_id']},{folder / r['image']},{folder / r['mask']},{r['time_days']}" for r in chosen]
    code, out, _, done, failed = batch("\n".join(["patient_id,image,mask,time_days", *lines]), "--max-slices", 4)
    assert code == 3
    assert len(done) + len(failed) == len(chosen) >= 22 and len(done) >= 15
    reasons = {row["patient_id"]: row["reason"] for row in failed}
    for patient in sorted(empty)[:2]:
        assert "empty" in reasons[patient]
    assert all("empty" in reason or "--min-roi" in reason for reason in reasons.values())
    assert all(0 <= float(row["risk_18m"]) <= 1 and int(row["n_slices"]) >= 1 for row in done)


def _is_empty(path):
    # An empty mask compresses to next to nothing; reading 300 to find five would be slow.
    return path.stat().st_size < 2000 and not sitk.GetArrayViewFromImage(sitk.ReadImage(str(path))).any()
