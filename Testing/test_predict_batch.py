"""``cnn-survival predict`` for many cases: its tables, its workers, a folder of patients, a device."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bundle_maker import bundle_info_2, random_weights
from CNNSurvivalLib import batch as batches
from CNNSurvivalLib.bundle import save_bundle
from CNNSurvivalLib.engines import create_engine
from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.io.case import Case
from cohort_maker import make_images
from training_cli import workers
from training_cli.cli import main

ROOT = Path(__file__).resolve().parents[1]
TABLES = ("predictions.csv", "curves.csv", "failures.csv")
OURS = len(batches.PREDICTIONS_HEADER)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def header_of(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return next(csv.reader(stream))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Five patients with follow-up; the last one's tumour is too small."""
    return make_images(tmp_path_factory.mktemp("cohort"), 5)


@pytest.fixture(scope="module")
def populations(tmp_path_factory):
    """A bundle of two populations."""
    return save_bundle(tmp_path_factory.mktemp("two") / "bundle", bundle_info_2(), random_weights()).folder


@pytest.fixture
def predict(cohort, tiny_bundle, tmp_path):
    """predict(name of the output, *options) -> (exit code, the folder); of the cohort unless the options say else."""

    def call(name, *options, source=("--manifest", cohort / "manifest.csv"), model=tiny_bundle.folder, jobs=1):
        out = tmp_path / name
        number = () if jobs is None else ("--jobs", jobs)
        return main([*map(str, ("predict", *source, "--model", model, "--output", out, *number, *options))]), out

    return call


# --- Tables ---------------------------------------------------------------------------------------------------


def test_curves_csv_has_the_curve_of_each_patient_in_long_form(predict):
    code, out = predict("out", "--details", model="lung-head-neck")
    assert code == 3
    curves = rows_of(out / "curves.csv")
    assert list(curves[0]) == ["patient_id", "time_days", "survival", "survival_ci_low", "survival_ci_high"]
    patients = [row["patient_id"] for row in rows_of(out / "predictions.csv")]
    assert list(dict.fromkeys(row["patient_id"] for row in curves)) == patients == ["s000", "s001", "s002", "s003"]
    for patient in patients:
        own = [{name: row[name] for name in row if name != "patient_id"} for row in curves
               if row["patient_id"] == patient]  # fmt: skip
        alone = rows_of(out / patient / "survival_curve.csv")
        assert own == [{name: row[name] for name in own[0]} for row in alone]
        assert own[0]["survival"] == "1.0" and 0 < float(own[-1]["survival_ci_low"]) < float(own[-1]["survival"])


def test_curves_of_a_model_without_interval_have_empty_cells(predict):
    _, out = predict("out", "--max-slices", 1)
    curves = rows_of(out / "curves.csv")
    assert {row["survival_ci_low"] + row["survival_ci_high"] for row in curves} == {""}


def test_curves_of_one_patient_can_be_told_apart(predict, cohort, tmp_path):
    pairs = [("a", "s000", "1"), ("a", "s001", "1"), ("b", "s002", "")]
    lines = [f"{who},{cohort}/{name}_ct.nrrd,{cohort}/{name}_mask.nrrd,{segment}" for who, name, segment in pairs]
    (tmp_path / "cases.csv").write_text("\n".join(["patient_id,image,mask,segment", *lines]))
    _, out = predict("out", "--max-slices", 1, source=("--manifest", tmp_path / "cases.csv"))
    curves = rows_of(out / "curves.csv")
    found = dict.fromkeys((row["patient_id"], row["row"]) for row in curves)
    assert list(found) == [("a", "1"), ("a", "2"), ("b", "3")]


@pytest.fixture
def manifest(cohort, tmp_path):
    """manifest(columns, rows) -> its path: two cases of the cohort with these further columns."""

    def write(columns, *rows):
        path = tmp_path / "cases.csv"
        with open(path, "w", newline="", encoding="utf-8") as stream:
            out = csv.writer(stream)
            out.writerow(["Patient_ID", "image", "mask", *columns])
            for number, row in enumerate(rows):
                files = [cohort / f"s00{number}_{kind}.nrrd" for kind in ("ct", "mask")]
                out.writerow([f"p{number}", *files, *row])
        return "--manifest", path

    return write


def test_the_manifests_other_columns_are_carried_into_predictions(predict, manifest):
    columns = ["Site", "Event", "Time_Days", "Scanner name", "AGE", "series_uid", "Site note"]
    first, second = ["Ulm", "1", "30", "Ä 1", "70", "", "=1+1"], ["", "0", "90", "Ä 1", "x", "", "-5"]
    code, out = predict("out", "--max-slices", 1, source=manifest(columns, first, second, first, second))
    assert code == 0
    assert header_of(out / "predictions.csv") == [
        *batches.PREDICTIONS_HEADER, "time_days", "event", "Site", "Scanner name", "AGE", "Site note"
    ]  # fmt: skip
    rows = [list(row.values())[OURS:] for row in rows_of(out / "predictions.csv")]
    assert (
        rows[:2] == [["30", "1", "Ulm", "Ä 1", "70", "'=1+1"], ["90", "0", "", "Ä 1", "x", "-5"]]
        and rows[2:] == rows[:2]
    )


def test_columns_that_are_called_like_ours_keep_both(predict, manifest):
    columns = ["Volume_CC", "risk_12m", "manifest_volume_cc", "warnings", "population"]
    source = manifest(columns, ["1", "2", "3", "4", ""], ["5", "6", "7", "8", ""])
    code, out = predict("out", "--max-slices", 1, source=source)
    assert code == 0
    expected = ["manifest_Volume_CC", "manifest_risk_12m", "manifest_manifest_volume_cc", "manifest_warnings"]
    assert header_of(out / "predictions.csv")[OURS:] == expected
    rows = rows_of(out / "predictions.csv")
    assert [list(row.values())[OURS:] for row in rows] == [list("1234"), list("5678")]
    assert rows[0]["volume_cc"] != "1" and rows[0]["warnings"] != "4"


def test_what_names_a_patient_is_carried_only_when_it_is_asked_for(predict, manifest, capsys):
    naming = ["PatientName", "Last name", "birth_date", "Familienname", "E-Mail", "Hausarzt", "MRN"]
    secret = ["Zq7Secret"] * len(naming)
    sites = [("Ulm", "U"), ("Bonn", "B"), ("Ulm", "U"), ("Bonn", "B")]
    source = manifest(["Site", *naming, "site name"], *([site, *secret, short] for site, short in sites))
    _, out = predict("out", "--max-slices", 1, "--details", "--report", source=source)
    said = capsys.readouterr().err
    assert f"Not carried into predictions.csv, as it may name the patient: {', '.join(naming)}." in said
    assert "Carried into predictions.csv: Site, site name." in said
    assert header_of(out / "predictions.csv")[OURS:] == ["Site", "site name"]
    assert not any(b"Zq7Secret" in content for content in contents(out).values())
    _, out = predict("asked", "--max-slices", 1, "--carry", "mrn, site", source=source)
    assert "arried" not in capsys.readouterr().err
    assert header_of(out / "predictions.csv")[OURS:] == ["Site", "MRN"]
    _, out = predict("none", "--max-slices", 1, "--carry", "none", source=source)
    assert header_of(out / "predictions.csv")[OURS:] == []
    code, out = predict("wrong", "--carry", "Sitte", source=source)
    assert code == 2 and not out.exists()
    assert "no column 'Sitte' to carry; its columns beside ours are: Site, PatientName" in capsys.readouterr().err


def carried(name, values):
    cases = [Case("ct", "mask", patient_id=f"p{n}", covariates={name: value}) for n, value in enumerate(values)]
    return batches.carried_columns(cases) == [name]


@pytest.mark.parametrize("name", ["Nimi", "名前", "Ref", "x"])
def test_a_column_whose_values_may_name_the_patient_is_not_carried(name):
    assert not carried(name, ["Meyer", "Adams", "Suzuki", "Dupont"])
    assert not carried(name, ["", "", "told Mr Meyer", ""])
    assert not carried(name, ["1950-03-01", "1961-12-24"]) and not carried(name, ["89073", "53111"])
    assert not carried(name, ["a long text that names Mr Meyer of Ulm"] * 4)
    assert not carried(name, ["Meyer"]) and not carried(name, [str(5000 + n % 30) for n in range(200)])
    assert carried(name, ["adenocarcinoma", "squamous", "squamous", "adenocarcinoma", ""])
    assert carried(name, ["12.25", "-3", "7,5", "", "140"]) and carried(name, ["", ""])


@pytest.mark.parametrize("name", ["GebDat", "Strasse", "Straße", "PLZ", "Pat-Nr", "PatNr", "Fallnummer", "Patient",
                                  "hospital_number", "StudyInstanceUID", "referring_physician", "nom", "Prénom",
                                  "record_id", "Kommentar", "Apellidos"])  # fmt: skip
def test_a_column_whose_name_says_that_it_names_the_patient_is_not_carried(name):
    assert not carried(name, ["1", "1", "1", "1"])


@pytest.mark.parametrize("name", ["age_years", "N_Stage", "hpv"])
def test_a_covariate_is_carried_whatever_is_in_it(name):
    assert carried(name, ["063Y"])


def test_the_headless_script_and_the_panel_write_the_same_tables(predict, manifest, tmp_path, tiny_bundle, capsys):
    from CNNSurvivalLib import headless

    path = manifest(["Site", "PatientName"], ["Ulm", "Zq7Secret"], ["Bonn", "Zq7Secret"])[1]
    _, out = predict("out", "--max-slices", 1, source=("--manifest", path))
    capsys.readouterr()
    call = ["--manifest", path, "--model", tiny_bundle.folder, "--output", tmp_path / "headless", "--max-slices", 1]
    assert headless.main([str(part) for part in call]) == 0
    assert "may name the patient: Site, PatientName." in capsys.readouterr().err
    said = batches.predict_source("manifest", path, tmp_path / "panel", tiny_bundle, lambda cells: None, max_slices=1)
    assert said.endswith("may name the patient: Site, PatientName.")
    for name in TABLES:
        content = (out / name).read_bytes()
        assert (tmp_path / "headless" / name).read_bytes() == (tmp_path / "panel" / name).read_bytes() == content


def test_details_say_which_patient_it_is(predict, cohort, monkeypatch):
    from training_cli import predict as module

    titles, real = [], module.survival_png
    monkeypatch.setattr(module, "survival_png", lambda p, title=None: titles.append(title) or real(p, title))
    _, out = predict("out", "--max-slices", 1, "--details")
    assert titles == ["s000", "s001", "s002", "s003"]
    assert [json.loads((out / name / "prediction.json").read_text())["patient_id"] for name in titles] == titles
    image = ("--image", cohort / "s000_ct.nrrd", "--mask", cohort / "s000_mask.nrrd")
    _, out = predict("one", source=image, jobs=None)
    assert json.loads((out / "prediction.json").read_text())["patient_id"] is None and titles[4:] == [None]


# --- The same bytes whoever does the work ----------------------------------------------------------------------


@pytest.fixture
def reference(predict, cohort, populations, monkeypatch):
    """(options, contents) of a run in this process, with a manifest that is named by a relative path."""
    text = (cohort / "manifest.csv").read_text().splitlines()
    lines = [f"{line},{each}" for line, each in zip(text[1:], ("here", "there", "", "there", ""))]
    lines.append("lost,first,lost.nrrd,lost.nrrd,,,,,")
    (cohort / "two.csv").write_text("\n".join([f"{text[0]},population", *lines]))
    monkeypatch.chdir(cohort.parent)
    options = {"source": ("--manifest", f"{cohort.name}/two.csv"), "model": populations}
    code, out = predict("one", "--details", **options)
    expected = contents(out)
    assert code == 3 and set(TABLES) < set(expected) and len(rows_of(out / "failures.csv")) == 2
    return options, expected


@pytest.mark.parametrize("jobs", [2, None])
def test_any_number_of_jobs_gives_the_same_bytes(predict, reference, jobs):
    options, expected = reference
    code, out = predict("more", "--details", **options, jobs=jobs)
    assert code == 3 and contents(out) == expected


def test_a_dask_cluster_gives_the_same_bytes(predict, reference, cohort, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    options, expected = reference
    monkeypatch.chdir(tmp_path)  # the workers of a cluster were started elsewhere
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=3, processes=True, dashboard_address=":0")
    with cluster:
        monkeypatch.chdir(cohort.parent)
        call = ("--details", "--backend", "dask", "--scheduler", cluster.scheduler_address)
        code, out = predict("dask", *call, **options, jobs=None)
        assert code == 3 and contents(out) == expected
        again = contents(predict("again", *call, "--max-slices", 1, **options, jobs=None)[1])
        assert again["predictions.csv"] != expected["predictions.csv"]  # nothing is kept of the former run


def test_a_scheduler_that_is_not_there(predict, monkeypatch, capsys):
    code, out = predict("out", "--backend", "dask", jobs=None)
    assert code == 2 and "--backend dask and --scheduler go together" in capsys.readouterr().err
    call = ("--backend", "dask", "--scheduler", "tcp://nowhere:1")
    assert predict("out", *call, jobs=2)[0] == 2 and "where the cluster decides" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, out = predict("out", *call, jobs=None)
    assert code == 2 and "pip install" in capsys.readouterr().err and not out.exists()


def test_as_many_jobs_as_cores_and_memory_take(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "cores", lambda: 8)
    for gigabytes, cases, expected in [(100, 50, 8), (100, 3, 3), (7, 50, 3), (0.5, 50, 1), (None, 50, 8), (100, 0, 1)]:
        free = None if gigabytes is None else int(gigabytes * 1024**3)
        monkeypatch.setattr(workers, "free_memory", lambda free=free: free)
        assert workers.default_jobs(cases) == expected


def test_the_limits_of_a_container_count(monkeypatch, tmp_path):
    inner = tmp_path / "job" / "step"
    inner.mkdir(parents=True)
    monkeypatch.setattr(workers, "CGROUPS", tmp_path)
    monkeypatch.setattr(workers, "_cgroups", lambda: [inner, inner.parent, tmp_path])
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert workers.cores() == 16
    before = workers.free_memory()
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("250000 100000\n")
    assert workers.cores() == 3
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("5000\n")
    (inner.parent / "memory.stat").write_text("anon 1500\nfile 9000\n")
    assert workers.free_memory() == 3500 and (before is None or before > 3500)


# --- Stopped --------------------------------------------------------------------------------------------------


@pytest.fixture
def started(cohort, tiny_bundle, tmp_path):
    """started(*options) -> a process that predicts 60 cases, after the first was done; it is ended with the test."""
    lines = [f"p{n:02d},{cohort}/s000_ct.nrrd,{cohort}/s000_mask.nrrd" for n in range(60)]
    (tmp_path / "cases.csv").write_text("\n".join(["patient_id,image,mask", *lines]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(p) for p in (ROOT / "CNNSurvival", ROOT))}
    processes = []

    def start(*options):
        out = tmp_path / "out"
        source = ["predict", "--manifest", tmp_path / "cases.csv", "--model", tiny_bundle.folder]
        call = [sys.executable, "-m", "training_cli", *map(str, [*source, "--output", out, *options])]
        process = subprocess.Popen(call, env=environment, stderr=subprocess.PIPE, start_new_session=True)
        processes.append(process)
        deadline = time.monotonic() + 300
        while not (out.exists() and any(out.glob("*/prediction.json"))):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.02)
        return process, out

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="sends the signal of Ctrl-C to a group of processes")
@pytest.mark.parametrize("jobs,sent", [(1, "SIGINT"), (3, "SIGINT"), (1, "SIGTERM"), (3, "SIGTERM")])
def test_a_stopped_run_leaves_whole_tables(started, jobs, sent):
    process, out = started("--details", "--jobs", jobs)
    os.killpg(process.pid, getattr(signal, sent))  # as terminals and clusters do: to the workers, too
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    predicted, curves, failed = (rows_of(out / name) for name in TABLES)
    done = [row["patient_id"] for row in predicted]
    assert 0 < len(done) < 60
    assert sorted(done + [row["patient_id"] for row in failed]) == [f"p{n:02d}" for n in range(60)]
    assert {row["reason"] for row in failed} == {batches.STOPPED}
    assert done == sorted(done) == list(dict.fromkeys(row["patient_id"] for row in curves))
    assert {p.parent.name for p in out.glob("*/prediction.json")} == set(done)
    assert not [p for p in out.rglob("*") if p.name.startswith(".") or p.suffix == ".tmp"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_the_command_that_was_killed(started):
    process, _ = started("--details", "--jobs", 2)
    own = [p for p in _processes() if os.getsid(p) == process.pid and p != process.pid]
    assert len(own) >= 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(_runs(p) for p in own) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [p for p in own if _runs(p)]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_worker_that_is_killed_does_not_hang_the_batch(started):
    process, out = started("--details", "--jobs", 2)
    own = [p for p in _processes() if os.getsid(p) == process.pid]
    worker = next(p for p in own if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes())
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "A worker process died" in rows_of(out / "failures.csv")[-1]["reason"]


def _processes():
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                os.getsid(int(path.name))
                found.append(int(path.name))
            except OSError:
                pass
    return found


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# --- A folder of patients, a device ----------------------------------------------------------------------------


def test_a_folder_of_patients(predict, cohort, tmp_path, capsys):
    folder = tmp_path / "patients"
    for number, name in enumerate(("Ann", "Bob")):
        (folder / name).mkdir(parents=True)
        for kind in ("ct", "mask"):
            (folder / name / f"{kind}.nrrd").write_bytes((cohort / f"s00{number}_{kind}.nrrd").read_bytes())
    (folder / "Cid").mkdir()
    code, out = predict("out", "--max-slices", 1, source=("--folder", folder))
    assert code == 3
    by_manifest = rows_of(predict("manifest", "--max-slices", 1)[1] / "predictions.csv")
    rows = rows_of(out / "predictions.csv")
    assert [row["patient_id"] for row in rows] == ["Ann", "Bob"]
    assert [row["risk_18m"] for row in rows] == [row["risk_18m"] for row in by_manifest[:2]]
    assert [(row["patient_id"], row["image"]) for row in rows_of(out / "failures.csv")] == [("Cid", "Cid")]
    capsys.readouterr()
    for options, words in [
        (("--folder", folder, "--manifest", "a"), "do not go together"),
        (("--folder", folder, "--image", "a"), "--image does not go with --folder"),
        (("--folder", folder, "--carry", "Site"), "--carry goes with --manifest"),
        (("--folder", folder, "--report"), "--report goes with --details"),
        (("--folder", tmp_path / "nowhere"), "does not exist"),
    ]:
        assert predict("wrong", source=options)[0] == 2
        assert words in capsys.readouterr().err and not (tmp_path / "wrong").exists()


def test_the_device_of_torch(predict, cohort, capsys, populations):
    torch = pytest.importorskip("torch")
    image = ("--image", cohort / "s000_ct.nrrd", "--mask", cohort / "s000_mask.nrrd")
    code, out = predict("out", "--engine", "torch", "--device", "cpu", source=image, jobs=None)
    record = json.loads((out / "prediction.json").read_text())
    assert code == 0 and f"torch {torch.__version__} on cpu" in json.dumps(record["provenance"])
    numpy = json.loads((predict("numpy", source=image, jobs=None)[1] / "prediction.json").read_text())
    assert record["risk"] == pytest.approx(numpy["risk"], abs=1e-5)
    absent = f"cuda:{torch.cuda.device_count()}"
    capsys.readouterr()
    for device in (absent, "nonsense", "meta"):
        code, out = predict("none", "--engine", "torch", "--device", device, source=image, jobs=None)
        err = capsys.readouterr().err
        assert code == 2 and f"cannot use the device '{device}' here; choose one of cpu" in err and not out.exists()
    code, out = predict("none", "--device", absent, source=image, jobs=None)
    assert code == 2 and "--device goes with --engine torch" in capsys.readouterr().err


def test_a_case_of_another_population_stays_on_the_device(populations, monkeypatch):
    pytest.importorskip("torch")
    from CNNSurvivalLib.bundle import load_bundle

    bundle = load_bundle(populations)
    engine, asked = create_engine("torch", bundle, "cpu"), []
    engine.device = "cuda:1"
    monkeypatch.setattr(batches, "create_engine", lambda *arguments: asked.append(arguments) or engine)
    batches.for_case(Case("ct", "mask", covariates={"population": "there"}), bundle, engine)
    assert [(name, device) for name, _, device in asked] == [("torch", "cuda:1")]


def test_torch_gives_the_same_bytes_with_any_number_of_jobs(predict):
    pytest.importorskip("torch")
    runs = [contents(predict(f"out{jobs}", "--engine", "torch", "--device", "cpu", jobs=jobs)[1]) for jobs in (1, 2)]
    assert runs[0] == runs[1]


def test_an_unknown_column_is_refused_before_anything_is_read():
    with pytest.raises(UsageError, match="its columns beside ours are: none"):
        batches.carried_columns([Case("ct", "mask")], ["Site"])
    assert batches.carried_columns([]) == batches.carried_columns([Case("ct", "mask")]) == []
