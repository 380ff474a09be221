"""prepare: a cohort's images and follow-up become a store, whoever does the work; and what is wrong is named."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from CNNSurvivalLib.slices import Preprocessing, axial_geometry, extract_slices
from cohort_maker import make_images
from training_cli.cli import main
from training_cli.cohort import prepare as module
from training_cli.cohort.clinical import read_clinical
from training_cli.cohort.store import open_store

FILES = ("slices.npy", "slices.csv", "patients.csv", "rejected.csv", "store.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), 8)


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "store"
    assert main(["prepare", str(data / "manifest.csv"), "--output", str(folder)]) == 3  # one tumour is too small
    return folder


def same(one, two):
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in FILES)


def test_the_store_holds_every_patients_slices_best_first(data, store):
    import SimpleITK as sitk

    opened = open_store(store)
    assert opened.patient_ids == [f"s{n:03d}" for n in range(7)]
    for patient in opened.patient_ids:
        arrays = [sitk.GetArrayFromImage(sitk.ReadImage(str(data / f"{patient}_{k}.nrrd"))) for k in ("ct", "mask")]
        expected = extract_slices(*arrays, axial_geometry((3.0, 1.0, 1.0)))
        np.testing.assert_array_equal(opened.images[opened.rows(patient)], expected.images)
        row = opened.patients.loc[patient]
        assert row["volume_cc"] == pytest.approx(arrays[1].sum() * 3 / 1000)
        assert row["usable_slices"] == len(expected) and row["roi_slices"] == expected.roi_slices
    assert opened.preprocessing == Preprocessing()


def test_slices_are_cut_like_a_networks(data, tmp_path):
    """Every setting that a bundle can hold, also those that have no option."""
    from CNNSurvivalLib import load_model

    assert load_model("lung-head-neck").preprocessing.slice_step_mm == 3.0
    bundle = tmp_path / "bundle"
    shutil.copytree(load_model("lung-head-neck").folder, bundle)
    info = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    wanted = {"hu_window": [-100.0, 200.0], "pixel_size_mm": 0.5, "crop_px": 140, "min_roi_px": 900,
              "slice_step_mm": 6.0}  # fmt: skip
    (bundle / "bundle.json").write_text(json.dumps({**info, "preprocessing": {**info["preprocessing"], **wanted}}))
    for network, name in (("lung-head-neck", "shipped"), (bundle, "own")):
        arguments = [str(data / "manifest.csv"), "--like", str(network), "--output", str(tmp_path / name)]
        assert main(["prepare", *arguments]) == 3
        assert open_store(tmp_path / name).preprocessing == load_model(network).preprocessing
    opened = open_store(tmp_path / "own")
    assert opened.slices["area_px"].min() >= 900 and set(np.diff(sorted(set(opened.slices["slice_index"])))) == {2}


def test_headers_are_spelled_as_for_predict(data, store, tmp_path):
    """Upper and lower case, semicolons, Windows' letters: the same manifest reader."""
    shutil.copytree(data, tmp_path / "data")
    header, rest = (tmp_path / "data/manifest.csv").read_text().split("\n", 1)
    header = header.replace("patient_id", "Patient_ID").replace("image", " Image").replace("mask", "MASK")
    header = header.replace("time_days", "Time_Days").replace("event", "Event")
    text = "\n".join([header + ",Stra\u00dfe", *(line + ",K\u00f6ln" for line in rest.splitlines())])
    (tmp_path / "data/manifest.csv").write_bytes(text.replace(",", ";").encode("cp1252"))
    assert main(["prepare", str(tmp_path / "data/manifest.csv"), "--output", str(tmp_path / "store")]) == 3
    one, two = open_store(store), open_store(tmp_path / "store")
    assert one.sha256 == two.sha256 and list(two.patients["Stra\u00dfe"]) == ["K\u00f6ln"] * 7
    assert list(two.patients.drop(columns="Stra\u00dfe")) == list(one.patients)


def test_outcomes_ranks_and_counts(data, store):
    opened, manifest = open_store(store), pd.read_csv(data / "manifest.csv").set_index("patient_id")
    for name in ("time_days", "event", "age_years", "t_stage"):
        assert list(opened.patients[name]) == list(manifest.loc[opened.patient_ids, name])
    ranks = opened.slices["cohort_rank"]
    assert sorted(ranks) == list(range(1, len(ranks) + 1))
    assert list(opened.best_rows(3)) == [int(np.flatnonzero(ranks == k)[0]) for k in (1, 2, 3)]
    counts = json.loads((store / "store.json").read_text())["counts"]
    assert counts["patients"] == 8 and counts["patients_usable"] == 7
    assert counts["slices_of_250_px_or_more"] == len(ranks) < counts["slices"]
    rejected = pd.read_csv(store / "rejected.csv")
    assert list(rejected["patient_id"]) == ["s007"] and "250" in rejected["reason"][0]
    assert not (store / ".parts").exists()


def test_two_workers_make_the_same_bytes(data, store, tmp_path):
    assert main(["prepare", str(data / "manifest.csv"), "--output", str(tmp_path / "two"), "--jobs", "2"]) == 3
    assert same(store, tmp_path / "two")


def test_a_dask_cluster_makes_the_same_bytes(data, store, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        call = ["prepare", str(data / "manifest.csv"), "--output", str(tmp_path / "dask"), "--backend", "dask"]
        assert main([*call, "--scheduler", cluster.scheduler_address]) == 3
    assert same(store, tmp_path / "dask")


def test_finished_cases_are_not_cut_again(data, store, tmp_path, monkeypatch):
    """Stopped after the third case, and started again."""
    read, done = module.read_case, []

    def stop_at_the_fourth(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arguments[0])
        return read(*arguments)

    monkeypatch.setattr(module, "read_case", stop_at_the_fourth)
    call = ["prepare", str(data / "manifest.csv"), "--output", str(tmp_path / "store")]
    assert main(call) == 130
    assert not (tmp_path / "store" / "store.json").exists()
    again = []
    monkeypatch.setattr(module, "read_case", lambda *arguments: (again.append(arguments[0]), read(*arguments))[1])
    assert main(call) == 3
    assert len(again) == 5 and not set(again) & set(done)
    assert same(store, tmp_path / "store")


def test_a_changed_image_is_cut_again(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    call = ["prepare", str(tmp_path / "data/manifest.csv"), "--output", str(tmp_path / "store"), "--keep-parts"]
    assert main(call) == 3
    before = open_store(tmp_path / "store").sha256
    for kind in ("ct", "mask"):
        shutil.copy(data / f"s001_{kind}.nrrd", tmp_path / "data" / f"s000_{kind}.nrrd")
    assert main(call) == 3
    assert open_store(tmp_path / "store").sha256 != before


def test_a_store_that_was_cut_in_another_way_stays(data, store, tmp_path, capsys):
    shutil.copytree(store, tmp_path / "store")
    call = ["prepare", str(data / "manifest.csv"), "--output", str(tmp_path / "store")]
    assert main([*call, "--min-roi", "100"]) == 2
    assert "holds a store that was cut in another way (min_roi_px 250, not 100)" in capsys.readouterr().err
    assert same(store, tmp_path / "store")
    assert main(call) == 3 and same(store, tmp_path / "store")


def test_follow_up_in_a_table_of_its_own_with_its_own_names(data, tmp_path):
    manifest = pd.read_csv(data / "manifest.csv")
    manifest[["patient_id", "image", "mask"]].assign(
        image=str(data) + "/" + manifest["image"], mask=str(data) + "/" + manifest["mask"]
    ).to_csv(tmp_path / "cases.csv", index=False)
    clinical = manifest.rename(columns={"patient_id": "ID", "time_days": "days", "event": "dead"})
    clinical = pd.concat([clinical.drop(index=2), clinical.iloc[[0]].assign(ID="nobody")])
    clinical[["ID", "days", "dead"]].to_csv(tmp_path / "clinical.csv", index=False, sep=";")
    call = ["prepare", str(tmp_path / "cases.csv"), "--clinical", str(tmp_path / "clinical.csv")]
    names = ["--id-column", "ID", "--time-column", "days", "--event-column", "dead"]
    assert main([*call, "--output", str(tmp_path / "store"), *names]) == 3
    rejected = pd.read_csv(tmp_path / "store" / "rejected.csv").set_index("patient_id")["reason"]
    assert "no row in the clinical table" in rejected["s002"] and "has no images" in rejected["nobody"]
    assert len(open_store(tmp_path / "store").patients) == 6


def test_a_bad_case_does_not_stop_the_rest(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/s000_ct.nrrd").write_bytes(b"NRRD0004\nbroken")
    (tmp_path / "data/s001_mask.nrrd").unlink()
    assert main(["prepare", str(tmp_path / "data/manifest.csv"), "--output", str(tmp_path / "store")]) == 3
    rejected = pd.read_csv(tmp_path / "store" / "rejected.csv").set_index("patient_id")["reason"]
    assert set(rejected.index) == {"s000", "s001", "s007"}
    assert "does not exist" in rejected["s001"]
    assert len(open_store(tmp_path / "store").patients) == 5


@pytest.mark.parametrize(
    "text, words",
    [
        ("patient_id,time\na,1\n", "has no column 'time_days'; it has: patient_id, time"),
        ("patient_id,time_days,event\na,-1,0\n", "patient 'a' has the time '-1'; it must be a number of days, 0 or"),
        ("patient_id,time_days,event\na,soon,0\n", "patient 'a' has the time 'soon'"),
        ("patient_id,time_days,event\na,nan,0\n", "patient 'a' has the time 'nan'"),
        ("patient_id,time_days,event\na,5,2\n", "patient 'a' has the event '2'; it must be 1 (died) or 0"),
        ("patient_id,time_days,event\na,5,\n", "patient 'a' has the event ''"),
        ("patient_id,time_days,event\na,5,1\na,6,0\n", "lists the patient 'a' more than once"),
        ("patient_id,time_days,event\n,5,1\n", "Row 1 of the clinical table"),
        ("patient_id,time_days,event\n", "has no rows"),
        ("patient_id,event,time_days,event\na,1,2,3\n", "has the column 'event' twice"),
    ],
)
def test_bad_clinical_tables_are_named(data, tmp_path, capsys, text, words):
    (tmp_path / "clinical.csv").write_text(text)
    call = ["prepare", str(data / "manifest.csv"), "--clinical", str(tmp_path / "clinical.csv")]
    assert main([*call, "--output", str(tmp_path / "store")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_excels_tables_read(tmp_path):
    path = tmp_path / "clinical.csv"
    path.write_bytes("\ufeffpatient_id;time_days;event;städte;age\r\n007; 12 ;1;Köln;50\r\n008;13;0;;\r\n".encode())
    table = read_clinical(path)
    assert list(table.index) == ["007", "008"] and list(table["time_days"]) == [12, 13]
    assert table.loc["007", "städte"] == "Köln" and table["age"].iloc[0] == 50 and np.isnan(table["age"].iloc[1])


@pytest.mark.parametrize(
    "options, words",
    [
        (["--where", "cohort=third"], "No row of the table"),
        (["--where", "kohort=first"], "has no column 'kohort'"),
        (["--where", "cohort"], "is not COLUMN=VALUE"),
        (["--time-column", "days"], "The manifest"),
        (["--backend", "dask"], "go together"),
        (["--hu-window", "200", "100"], "a lower and a higher"),
        (["--like", "lung-head-neck", "--min-roi", "100"], "--min-roi does not go with --like"),
        (["--like", "lung-head-neck", "--pixel-size-mm", "native"], "--pixel-size-mm does not go with --like"),
        (["--like", "nowhere"], "no model 'nowhere'"),
    ],
)
def test_mistakes_on_the_command_line(data, tmp_path, capsys, options, words):
    assert main(["prepare", str(data / "manifest.csv"), "--output", str(tmp_path / "store"), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_missing_package_says_how_to_install_it_from_a_checkout(data, tmp_path, capsys, monkeypatch):
    """This software is on no public index."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    call = ["prepare", str(data / "manifest.csv"), "--output", str(tmp_path / "store"), "--backend", "dask"]
    assert main([*call, "--scheduler", "tcp://nowhere:1"]) == 2
    assert """'pip install ".[cluster]"'""" in capsys.readouterr().err


def test_a_manifest_without_follow_up_is_called_a_manifest(data, tmp_path, capsys):
    text = (data / "manifest.csv").read_text().replace("time_days", "Days")
    (tmp_path / "cases.csv").write_text(text)
    assert main(["prepare", str(tmp_path / "cases.csv"), "--output", str(tmp_path / "store")]) == 2
    error = capsys.readouterr().err
    assert "The manifest '" in error and "clinical table" not in error and "t_stage, Days, event" in error


def test_a_dicom_folder_is_paired_by_reference(shared_data, tmp_path):
    root = shared_data("data/dicom") / "chest-ct-rtstruct"
    cases, problems = module.find_dicom_cases(root, "GTVp")
    assert len(cases) == 1 and not problems and "GTVp" in cases[0].segment
    (tmp_path / "clinical.csv").write_text(f"patient_id,time_days,event\n{cases[0].patient_id},400,1\n")
    call = ["prepare", str(root), "--clinical", str(tmp_path / "clinical.csv"), "--segment", "GTVp"]
    assert main([*call, "--output", str(tmp_path / "store")]) == 0
    assert len(open_store(tmp_path / "store").slices) > 5


def test_our_cohort_gives_the_numbers_that_we_report(shared_data, tmp_path):
    manifest = shared_data("data/nsclc") / "manifest.csv"
    call = ["prepare", str(manifest), "--where", "cohort=nsclc-radiogenomics", "--slice-step-mm", "3", "--output",
            str(tmp_path / "store")]  # fmt: skip
    assert main(call) == 3
    opened = open_store(tmp_path / "store")
    assert (len(opened.patients), int(opened.event.sum()), len(opened.slices)) == (77, 27, 706)
