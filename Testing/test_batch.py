"""Many cases: from a folder, from a scene, and in Slicer without a window; the same tables as the command line's."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from CNNSurvivalLib import batch
from CNNSurvivalLib.engines import create_engine
from CNNSurvivalLib.errors import Cancelled, UsageError
from CNNSurvivalLib.io.patient_folder import folder_cases

sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK")
ROOT = Path(__file__).resolve().parents[1]


def write(path, array, spacing=(1.0, 1.0, 3.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def files(tmp_path, sphere):
    """write_case(image path, mask path), below tmp_path."""
    hu, mask = sphere()

    def write_case(image, mask_file):
        write(tmp_path / image, hu.astype(np.int16))
        write(tmp_path / mask_file, mask.astype(np.uint8))

    return write_case


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_patients_are_found_in_sub_folders(tmp_path, files):
    files("a/ct.nrrd", "a/tumour.seg.nrrd")
    files("b/scan.nii.gz", "b/GTV.nii.gz")
    files("c/ct.nrrd", "c/mask1.nrrd")
    write(tmp_path / "c" / "mask2.nrrd", np.zeros((2, 2, 2), np.uint8))
    (tmp_path / "d").mkdir()
    found = {row.patient_id: row for row in folder_cases(tmp_path)}
    assert (found["a"].image, found["a"].mask) == ("a/ct.nrrd", "a/tumour.seg.nrrd")
    assert (found["b"].image, found["b"].mask) == ("b/scan.nii.gz", "b/GTV.nii.gz")
    assert "1 CTs and 2 masks" in found["c"].problem and "0 CTs and 0 masks" in found["d"].problem


def test_pairs_are_found_in_one_folder(tmp_path, files):
    files("p1_ct.nrrd", "p1_mask.nrrd")
    files("p2.nrrd", "p2.seg.nrrd")
    files("segal_ct.nrrd", "segal_label.nrrd")  # a name that holds a word for masks
    write(tmp_path / "p3_ct.nrrd", np.zeros((2, 2, 2), np.int16))
    found = {row.patient_id: (row.image, row.mask, row.problem) for row in folder_cases(tmp_path)}
    assert found["p1"] == ("p1_ct.nrrd", "p1_mask.nrrd", None)
    assert found["p2"] == ("p2.nrrd", "p2.seg.nrrd", None)
    assert found["segal"] == ("segal_ct.nrrd", "segal_label.nrrd", None)
    assert "1 CTs and 0 masks" in found["p3"][2]


def test_a_folder_without_patients_is_said_to_be_one(tmp_path):
    with pytest.raises(UsageError, match="holds no patients"):
        folder_cases(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        folder_cases(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="No folder is given"):
        batch.cases_of("folder", "")


def test_what_is_done_is_kept_when_it_is_stopped(tmp_path, files, tiny_bundle):
    for name in "abc":
        files(f"{name}/ct.nrrd", f"{name}/mask.nrrd")
    engine, seen = create_engine("numpy", tiny_bundle), []

    def progress(step, fraction):
        if step.startswith("2 of 3") and fraction > 0.4:
            raise Cancelled

    outcomes, stopped = batch.run_batch(
        folder_cases(tmp_path), lambda case, inside: batch.predict_case(case, tiny_bundle, engine, inside),
        seen.append, progress,
    )  # fmt: skip
    assert stopped and [outcome.values is not None for outcome in outcomes] == [True, False, False]
    assert len(seen) == 1 and outcomes[2].reason == batch.STOPPED
    assert batch.write_tables(tmp_path / "out", outcomes) == 2
    assert [row["patient_id"] for row in rows_of(tmp_path / "out" / "predictions.csv")] == ["a"]
    said = batch.sentence(outcomes, stopped, "out")
    assert "Stopped before the end: 2 not done." in said and "failed" not in said
    assert batch.shown(outcomes[1])[-1] == batch.STOPPED
    assert [batch.shown(outcome)[3] for outcome in outcomes] == ["inside", "", ""]
    marked = list(outcomes[0].values)
    marked[batch.PREDICTIONS_HEADER.index("inside_training_range")] = 0
    assert batch.shown(outcomes[0]._replace(values=marked))[3] == batch.OUTSIDE


def test_the_headless_script_writes_what_the_command_line_writes(tmp_path, files):
    files("ct.nrrd", "mask.nrrd")
    manifest = tmp_path / "cases.csv"
    manifest.write_text("patient_id,image,mask\none,ct.nrrd,mask.nrrd\ntwo,ct.nrrd,lost.nrrd\n", encoding="utf-8")
    script = ROOT / "CNNSurvival" / "CNNSurvivalLib" / "headless.py"
    run = [sys.executable, str(script), "--manifest", str(manifest), "--output", str(tmp_path / "headless")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "1 of 2 cases predicted" in done.stdout
    from training_cli.cli import main

    assert main(["predict", "--manifest", str(manifest), "--output", str(tmp_path / "cli")]) == 3
    for name in ("predictions.csv", "failures.csv"):
        assert (tmp_path / "headless" / name).read_bytes() == (tmp_path / "cli" / name).read_bytes()
    assert "Population: " in done.stdout and "(the model's default)" in done.stdout
    again = [*run[:2], "--manifest", str(manifest), "--output", str(tmp_path / "named"), "--covariate", "age_years=63"]
    wrong = subprocess.run([*again, "--population", "nobody"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "has no population 'nobody'" in wrong.stderr and not (tmp_path / "named").exists()
    assert subprocess.run([*again, "--force"], capture_output=True, check=False).returncode == 3
    wrong = subprocess.run([*run[:2], "--manifest", "nowhere.csv", "--output", "x"], capture_output=True, text=True,
                           cwd=tmp_path, check=False)  # fmt: skip
    assert wrong.returncode == 2 and "does not exist" in wrong.stderr and "Traceback" not in wrong.stderr
    assert subprocess.run(run[:2], capture_output=True, check=False).returncode == 2


def test_the_licence_of_the_weights_is_said_by_both_programs(program, capsys):
    assert program() == 0
    assert "CC BY-NC 3.0" in capsys.readouterr().err


def test_a_licence_without_conditions_is_not_mentioned(program, tiny_bundle, capsys):
    assert program("--model", str(tiny_bundle.folder)) == 0
    assert "icence" not in capsys.readouterr().err


@pytest.fixture(params=["headless.py", "cnn-survival predict"])
def program(request, tmp_path, files):
    """program(*options) -> exit code of a batch of one case, by each of the two programs."""
    from CNNSurvivalLib import headless
    from training_cli import cli

    files("ct.nrrd", "mask.nrrd")
    (tmp_path / "cases.csv").write_text("patient_id,image,mask\none,ct.nrrd,mask.nrrd\n", encoding="utf-8")
    command = ["--manifest", str(tmp_path / "cases.csv"), "--output", str(tmp_path / "out")]
    if request.param == "headless.py":
        return lambda *options: headless.main([*command, *options])
    return lambda *options: cli.main(["predict", *command, *options])


def test_a_model_is_named_in_the_same_ways_by_both_programs(program, tmp_path, capsys, tiny_bundle):
    assert program("--model", "absent") == 2
    assert "There is no model 'absent'" in capsys.readouterr().err and not (tmp_path / "out").exists()
    for model in ("lung-head-neck", str(tiny_bundle.folder)):
        assert program("--model", model) == 0
        assert [row["patient_id"] for row in rows_of(tmp_path / "out" / "predictions.csv")] == ["one"]
    capsys.readouterr()


@pytest.mark.parametrize("option", ["--min-roi", "--max-slices"])
@pytest.mark.parametrize("value", ["0", "-1", "2.5", "many"])
def test_numbers_that_cannot_be_are_refused_by_both_programs(program, tmp_path, capsys, option, value):
    assert program(f"{option}={value}") == 2
    err = capsys.readouterr().err
    assert f"{option}: '{value}' is not a whole number, 1 or more" in err and not (tmp_path / "out").exists()


def test_the_patients_of_a_scene(tiny_bundle):
    pytest.importorskip("slicer", reason="needs slicer-core")
    import slicer
    from test_scene import add_segmentation, add_volume, ball

    from CNNSurvivalLib.mrml.scene_cases import scene_cases

    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    with pytest.raises(UsageError, match="holds no CT"):
        scene_cases(scene)
    first, second = (add_volume(scene, name=name) for name in ("CT 1", "CT 2"))
    add_segmentation(scene, volume=first)
    add_segmentation(scene, {"Liver": ball(), "Heart": ball()}, volume=second, name="Organs")
    add_volume(scene, name="CT 3")
    cases = scene_cases(scene)
    assert [case.patient_id for case in cases] == ["CT 1", "CT 2", "CT 3"]
    assert "No segment of 'Organs'" in cases[1].problem and "no segmentation" in cases[2].problem
    engine = create_engine("numpy", tiny_bundle)
    outcomes, _ = batch.run_batch(cases, lambda case, inside: batch.predict_case(case, tiny_bundle, engine, inside))
    assert [outcome.values is None for outcome in outcomes] == [False, True, True]
    scene.Clear(1)


def test_an_impossible_covariate_of_a_table_is_left_out_with_a_warning(tmp_path):
    """The image can be predicted without it; a batch does not fail for a stage that somebody wrote in another way."""
    from bundle_maker import bundle_info_2, random_weights
    from CNNSurvivalLib.batch import covariates_of
    from CNNSurvivalLib.bundle import save_bundle
    from CNNSurvivalLib.io.case import Case

    bundle = save_bundle(tmp_path / "bundle", bundle_info_2(), random_weights())
    case = Case("ct.nrrd", "mask.nrrd", covariates={"age_years": "61", "n_stage": "9", "histology": "?"})
    known, notes = covariates_of(case, bundle)
    assert known == {"age_years": 61.0}
    assert len(notes) == 1 and "N stage '9' is unknown" in notes[0] and notes[0].endswith("It was left out.")
    by_alias = Case("ct.nrrd", "mask.nrrd", covariates={" n ": "9"})
    assert covariates_of(by_alias, bundle, {"n_stage": "N2", "age_years": 70})[0] == {"age_years": 70.0}
    # Of two columns for one covariate the first name with a known value counts, in whatever order they stand.
    for columns in (
        {"age_years": "63", "age": "70"},
        {"age": "70", "age_years": "63"},
        {"age_years": "63", "age": "999"},
    ):
        assert covariates_of(Case("ct.nrrd", "mask.nrrd", covariates=columns), bundle) == ({"age_years": 63.0}, ())


@pytest.mark.parametrize("ids", [["a-row3", "a", "a"], ["A", "b", "a", "a-row3"], ["a-row3", "a-row3-2", "a", "a"]])
def test_every_case_has_a_folder_of_its_own(ids):
    """Also where a patient is called as another's folder would be; file systems may not tell A from a."""
    from CNNSurvivalLib.io.case import Case, with_folder_names

    cases = [Case("ct.nrrd", "mask.nrrd", patient_id=name, number=number) for number, name in enumerate(ids, 1)]
    names = [case.folder_name for case in with_folder_names(cases)]
    assert len({name.casefold() for name in names}) == len(ids) and names[0] == ids[0]
    one_row = [Case("ct.nrrd", "mask.nrrd", segment=name) for name in ("GTV 1", "GTV_1", "GTV-1", "GTV:1")]
    names = [case.folder_name for case in with_folder_names(one_row, by="segment")]
    assert names == ["GTV_1", "GTV_1-row1", "GTV-1", "GTV_1-row1-2"]
