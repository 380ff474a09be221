"""download, with the program s5cmd and a server on loopback: real UIDs, buckets and keys, made-up files."""

import csv
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.io.read import read_case
from training_cli.cli import main
from training_cli.cohort import download, s5cmd
from training_cli.cohort.prepare import prepare

pytest.importorskip("moto")
pytest.importorskip("idc_index_data")

import idc_world
from s3_server import FaultyFront, S3Server

# Patients of the pancreas collection, and the CT that their contours are drawn on here: one with a venous phase, one
# with two lesions, one with two series that are alike.
DRAWN = {
    "C3L-00401": ("204808131173076753072264680143", "115222332781781993819030355720"),  # arterial, venous
    "C3L-03350": (),
    "C3N-00198": (),
}
LUNG = ("LUNG1-001", "LUNG1-002")
HU = np.full((7, 44, 44), -850, np.int16)
MASK = np.zeros(HU.shape, bool)
MASK[1:6, 6:38, 6:38] = True
HU[MASK] = 40


class World:
    """The server, its front, the index, and what the buckets hold."""

    def __init__(self, folder: Path):
        self.server = S3Server()
        self.front = FaultyFront(self.server.url)
        collections = ("nsclc_radiomics", "cptac_pda", "nsclc_radiogenomics")
        rows = idc_world.real_rows(collections, (*LUNG, *DRAWN, "R01-001"))
        self.files: dict[str, list[bytes]] = {}
        for _, own in rows.groupby("PatientID"):
            self._draw(own)
        self.index = idc_world.publish(self.server, rows, self.files, folder / "index.parquet")
        self.rows = pd.read_parquet(self.index).set_index("SeriesInstanceUID")
        clinical = pd.DataFrame({"dicom_patient_id": LUNG, "survivaltime": [2165, 155], "deadstatusevent": [1, 1]})
        idc_world.publish_clinical(self.server, "nsclc_radiomics_clinical", clinical)

    def _draw(self, own: pd.DataFrame) -> None:
        """Files of the contours, and of the CT that they refer to. Other CT are in the index alone."""
        if own["PatientID"].iloc[0] == "R01-001":
            row = own[(own["Modality"] == "SEG") & own["analysis_result_id"].isna()].iloc[0]
            ct = own[(own["Modality"] == "CT") & (own["StudyInstanceUID"] == row["StudyInstanceUID"])].iloc[-1]
            self.files[row["SeriesInstanceUID"]] = idc_world.seg_files(row, ct, MASK)
            self.files[ct["SeriesInstanceUID"]] = idc_world.ct_files(ct, HU)
            return
        lung = own["PatientID"].iloc[0] in LUNG
        wanted = own[(own["Modality"] == "RTSTRUCT")
                     & (lung | own["SeriesDescription"].fillna("").str.match(r"Pre-Dose, PANCREAS - \d$"))]  # fmt: skip
        for number, (_, row) in enumerate(wanted.sort_values("SeriesInstanceUID").iterrows()):
            ct = own[(own["Modality"] == "CT") & (own["StudyInstanceUID"] == row["StudyInstanceUID"])]
            tails = DRAWN.get(row["PatientID"], ())
            chosen = ct[ct["SeriesInstanceUID"].str.endswith(tails)] if tails else ct
            chosen = chosen.sort_values("SeriesInstanceUID").iloc[number % len(chosen)]
            names = {"heart": MASK, "GTV-1": MASK} if lung else {"PANCREAS  - 1": MASK}
            self.files[row["SeriesInstanceUID"]] = idc_world.rtstruct_files(row, chosen, names)
            self.files[chosen["SeriesInstanceUID"]] = idc_world.ct_files(chosen, HU)

    def folder(self, uid: str) -> s5cmd.Folder:
        row = self.rows.loc[uid]
        size = round(row["series_size_MB"] * 1e6)
        return s5cmd.Folder(uid, row["series_aws_url"], int(row["instanceCount"]), size, f"patient {row['PatientID']}")

    def assert_whole(self, folder: Path) -> int:
        """Every series under its final name holds just the files of the bucket; returns how many there are."""
        series = [path for path in folder.iterdir() if not path.name.startswith(".")]
        for path in series:
            assert sorted(file.read_bytes() for file in path.iterdir()) == sorted(self.files[path.name]), path
        return len(series)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.front.stop()
    world.server.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch, world):
    monkeypatch.setattr(s5cmd, "RETRIES", 2)
    for name in (*s5cmd.VARIABLES, "CNNSURVIVAL_IDC_INDEX"):
        monkeypatch.delenv(name, raising=False)
    world.front.fault = ""
    world.front.asked.clear()


@pytest.fixture(scope="module")
def some(world):
    """Ten series of one file to seven."""
    return [world.folder(uid) for uid in sorted(world.files)[:10]]


def table(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def quiet(text):
    pass


# --- The whole way ----------------------------------------------------------------------------------------------------


def test_the_lung_cohort_from_the_network_to_a_store(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CNNSURVIVAL_S3_ENDPOINT", world.front.url)
    monkeypatch.setenv("CNNSURVIVAL_IDC_INDEX", str(world.index))
    assert main(["download", "NSCLC-Radiomics", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"prepare {tmp_path / 'selection.csv'} --clinical {tmp_path / 'follow_up.csv'}" in said
    assert "2 patients have follow-up" in said and "start of radiotherapy" in said
    assert world.assert_whole(tmp_path / "series") == 4
    rows = table(tmp_path / "selection.csv")
    assert [row["patient_id"] for row in rows] == list(LUNG)
    assert {row["segment"] for row in rows} == {"GTV-1"} and {row["ambiguous"] for row in rows} == {"0"}
    source, follow_up = tmp_path / "selection.csv", tmp_path / "follow_up.csv"
    store = prepare(source, tmp_path / "store", clinical=follow_up, log=quiet)
    assert store.info["counts"]["patients"] == 2
    # Again: nothing is fetched, and the table neither.
    world.front.asked.clear()
    assert main(["download", "nsclc_radiomics", "--output", str(tmp_path)]) == 0
    assert not world.front.asked and "2 of 2 series are here already." in capsys.readouterr().out


def test_the_pancreas_cohort(world, tmp_path):
    said = []
    folder = download.fetch("cptac_pda", tmp_path, world.front.url, world.index, log=said.append)
    rows = {row["patient_id"]: row for row in table(folder / "selection.csv")}
    assert set(rows) == set(DRAWN)
    venous = rows["C3L-00401"]
    assert venous["series_uid"].endswith(DRAWN["C3L-00401"][1]) and venous["ambiguous"] == "0"
    assert venous["centre"] == "1078" and venous["lesion"] == "1" and venous["segment"] == "PANCREAS  - 1"
    assert len(venous["ct_candidates"].split(" | ")) == 2 and "preferred phase" in venous["reason"]
    assert "lesions 1, 2 are drawn" in rows["C3L-03350"]["reason"] and rows["C3L-03350"]["ambiguous"] == "1"
    assert "most slices" in rows["C3N-00198"]["reason"] and rows["C3N-00198"]["ambiguous"] == "1"
    # Of the CT, just the chosen ones; others of the studies are not even in the bucket.
    world.assert_whole(folder / "series")
    kinds = world.rows.loc[[path.name for path in (folder / "series").iterdir()], "Modality"]
    assert (kinds == "CT").sum() == 3
    assert all((folder / row["image"]).is_dir() and (folder / row["mask"]).is_dir() for row in rows.values())
    assert "The clinical table cptac_pda_clinical is not in the bucket at http://127.0.0.1" in said[-1]
    assert not (folder / "clinical.csv").exists()


def test_a_collection_with_seg(world, tmp_path):
    folder = download.fetch("nsclc_radiogenomics", tmp_path, world.front.url, world.index, log=quiet)
    (row,) = table(folder / "selection.csv")
    case = read_case(folder / row["image"], folder / row["mask"], row["segment"], row["series_uid"])
    assert case.mask.sum() == MASK.sum() and case.hu[case.mask > 0].mean() == 40
    assert world.assert_whole(folder / "series") == 2


def test_dry_run_needs_no_network(world, monkeypatch, capsys):
    monkeypatch.setenv("CNNSURVIVAL_S3_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(subprocess, "Popen", None)
    assert main(["download", "cptac_pda", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "patients    75" in output and "at most 12.5 GB" in output and "CC BY 4.0" in output
    assert "11 patients by the index alone" in output
    assert main(["download", "cptac_pda", "--dry-run", "--index", str(world.index), "--without", "C3L-00401"]) == 0
    assert "patients    2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nsclc_radiomics"], "--output, or --dry-run"),
        (["nsclc_radiomix", "--dry-run"], "no collection 'nsclc_radiomix'; did you mean acrin_nsclc_fdg_pet, nsclc"),
        (
            ["nsclc_radiomics", "--output", "x", "--endpoint", "azure"],
            "The endpoint 'azure' is none; give aws, gcs, or",
        ),
        (["cptac_pda", "--dry-run", "--index", "none.parquet"], "The index 'none.parquet' does not exist"),
        (["cptac_pda", "--dry-run", "--index", __file__], "must be the parquet file of idc-index-data"),
    ],
)
def test_a_command_that_must_be_changed(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["download", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_endpoints(monkeypatch):
    assert s5cmd.find_endpoint().url == "https://s3.amazonaws.com"
    google = s5cmd.find_endpoint("GCS")
    assert google.url == "https://storage.googleapis.com"
    assert [google.bucket(name) for name in ("idc-open-data", "idc-open-data-two", "idc-open-data-cr")] == [
        "idc-open-data", "idc-open-idc1", "idc-open-cr"]  # fmt: skip
    monkeypatch.setenv("S3_ENDPOINT_URL", "https://mirror.example/")
    mirror = s5cmd.find_endpoint()
    assert mirror.url == "https://mirror.example" and mirror.bucket("idc-open-data-cr") == "idc-open-data-cr"
    monkeypatch.setenv("CNNSURVIVAL_S3_ENDPOINT", "gcs")
    assert s5cmd.find_endpoint() == google and s5cmd.find_endpoint("aws").name == "aws"


def test_buckets_have_other_names_at_google(world, tmp_path, monkeypatch):
    monkeypatch.setitem(s5cmd.URLS, "gcs", world.front.url)
    uid = next(uid for uid in world.files if world.rows.loc[uid, "PatientID"] == LUNG[0])
    key = world.rows.loc[uid, "series_aws_url"].removeprefix("s3://idc-open-data-cr/").removesuffix("*")
    for number, content in enumerate(world.files[uid]):
        world.server.put("idc-open-cr", f"{key}{number}.dcm", content)
    s5cmd.fetch([world.folder(uid)], tmp_path, s5cmd.find_endpoint("gcs"), quiet)
    assert world.assert_whole(tmp_path) == 1
    assert all(path.startswith("/idc-open-cr/") for path in world.front.asked)


# --- Going on ---------------------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_fetched(world, some, tmp_path):
    endpoint = s5cmd.find_endpoint(world.front.url)
    s5cmd.fetch(some, tmp_path, endpoint, quiet)
    assert world.assert_whole(tmp_path) == len(some)
    many = next(folder for folder in some if folder.files > 1)
    # A file of a whole series was deleted.
    lost = min((tmp_path / many.name).iterdir())
    lost.unlink()
    world.front.asked.clear()
    s5cmd.fetch(some, tmp_path, endpoint, quiet)
    assert world.assert_whole(tmp_path) == len(some)
    assert [Path(path).name for path in world.front.asked] == [lost.name]
    # A part folder with a whole file, a cut one, one with other bytes and one of s5cmd's own.
    (tmp_path / many.name).rename(tmp_path / (s5cmd.PART + many.name))
    files = sorted((tmp_path / (s5cmd.PART + many.name)).iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-1])
    files[1].write_bytes(files[1].read_bytes()[:-1] + b"x")
    files[2].with_name(files[2].name + "12345").write_bytes(b"temporary")
    world.front.asked.clear()
    s5cmd.fetch(some, tmp_path, endpoint, quiet)
    assert world.assert_whole(tmp_path) == len(some)
    assert {Path(path).name for path in world.front.asked} == {files[0].name, files[1].name}


CHILD = """
import pickle, sys
from pathlib import Path
from training_cli.cohort import s5cmd
folders, target, url = pickle.load(open(sys.argv[1], "rb"))
s5cmd.fetch([s5cmd.Folder(*folder) for folder in folders], Path(target), s5cmd.find_endpoint(url))
"""


def test_killed_at_20_moments(world, tmp_path):
    """kill -9 of our process alone, so that the s5cmd that it started lives on for a while, as it would."""
    import pickle

    folders = [world.folder(uid) for uid in sorted(world.files)]
    target, task = tmp_path / "series", tmp_path / "task"
    task.write_bytes(pickle.dumps(([tuple(folder) for folder in folders], str(target), world.front.url)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    world.front.fault = "slow"
    chance = random.Random(14)
    objects = sum(folder.files for folder in folders)
    for _ in range(20):
        world.front.asked.clear()
        left = objects - len(list(target.glob("*/*.dcm")))
        moment = chance.randrange(max(left, 1))  # in objects that were asked for, so in the midst, however fast
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(task)], env=environment,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
        child.stdout.readline()  # it has begun
        while child.poll() is None and sum(world.front.asked.values()) < moment:
            time.sleep(0.001)
        child.kill()
        child.wait()
        child.stdout.close()
        if target.exists() and world.assert_whole(target) == len(folders):
            shutil.rmtree(target, ignore_errors=True)  # from the beginning, so that all kills count
    world.front.fault = ""
    s5cmd.fetch(folders, target, s5cmd.find_endpoint(world.front.url), quiet)
    assert world.assert_whole(target) == len(folders)
    assert not list(target.glob(".part-*"))


# --- Faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault, words",
    [
        ("403", "the server refuses access (403); check the endpoint; on a mirror, the objects must be readable by"),
        ("503", "the server is busy (503 after several tries); wait a while, then give the same command again"),
        ("cut", "the connection broke off; check the network, then give the same command again to continue."),
        ("changed", "files arrived with other content than the bucket says"),
    ],
)
def test_faults_of_the_server(world, some, tmp_path, fault, words):
    """Half of the series are here already; they stay, and the rest is fetched when the fault is over."""
    endpoint = s5cmd.find_endpoint(world.front.url)
    s5cmd.fetch(some[:5], tmp_path, endpoint, quiet)
    world.front.fault = fault
    with pytest.raises(CNNSurvivalError) as caught:
        s5cmd.fetch(some, tmp_path, endpoint, quiet)
    assert f"5 of 5 series could not be fetched from {endpoint.url}, first that of patient " in str(caught.value)
    assert words in str(caught.value)
    assert world.assert_whole(tmp_path) == 5
    world.front.fault = ""
    s5cmd.fetch(some, tmp_path, endpoint, quiet)
    assert world.assert_whole(tmp_path) == len(some)


def test_a_busy_server_is_asked_again(world, some, tmp_path):
    world.front.fault = "503 twice"
    s5cmd.fetch(some, tmp_path, s5cmd.find_endpoint(world.front.url), quiet)
    assert world.assert_whole(tmp_path) == len(some)
    assert set(world.front.asked.values()) == {3}


def test_no_server(some, tmp_path):
    with pytest.raises(CNNSurvivalError, match="the server cannot be reached; check the network and the endpoint"):
        s5cmd.fetch(some, tmp_path, s5cmd.find_endpoint("http://127.0.0.1:9"), quiet)
    assert not list(tmp_path.glob("[!.]*"))


def test_a_series_that_the_bucket_does_not_have(world, some, tmp_path):
    """The others are fetched all the same."""
    gone = world.folder(next(uid for uid, row in world.rows.iterrows() if row["Modality"] == "CT"
                             and uid not in world.files))  # fmt: skip
    with pytest.raises(CNNSurvivalError) as caught:
        s5cmd.fetch([gone, *some], tmp_path, s5cmd.find_endpoint(world.front.url), quiet)
    assert "1 of 11 series could not be fetched" in str(caught.value)
    words = "is in the index but not in the bucket; update idc-index, or leave the patient out (--without;"
    assert f"that of {gone.about} {words}" in str(caught.value)
    assert world.assert_whole(tmp_path) == len(some)


def test_what_ended_the_transfer_is_said_of_all_that_it_ended(world, some, tmp_path, monkeypatch):
    """And not what is wrong with another series."""
    first, second, third = some[:3]
    endpoint = s5cmd.find_endpoint(world.front.url)
    errors = [{"command": f"ls {first.url}", "error": "no object found"},
              {"command": f"ls {second.url}", "error": "AccessDenied: status code: 403"}]  # fmt: skip
    monkeypatch.setattr(s5cmd, "_run", lambda lines, endpoint, take: errors)
    with pytest.raises(CNNSurvivalError, match="3 of 3 series .* of patient .*: the server refuses access"):
        s5cmd.fetch([first, second, third], tmp_path, endpoint, quiet)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(world, some, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CNNSurvivalError, match="cannot be written .*; choose another folder"):
        s5cmd.fetch(some, tmp_path / "file" / "series", s5cmd.find_endpoint(world.front.url), quiet)


@pytest.mark.parametrize("change", ["an object is missing", "an object is shorter"])
def test_a_series_that_is_not_as_in_the_index(world, some, tmp_path, change):
    many = next(folder for folder in some if folder.files > 1)
    other = many._replace(files=many.files + 1) if "missing" in change else many._replace(bytes=many.bytes + 1)
    with pytest.raises(CNNSurvivalError, match="is not as in the index: the bucket holds 7 files with .* bytes, the "):
        s5cmd.fetch([other], tmp_path, s5cmd.find_endpoint(world.front.url), quiet)
    assert world.assert_whole(tmp_path) == 0


def test_too_little_space(world, some, tmp_path, monkeypatch):
    monkeypatch.setattr(s5cmd.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(CNNSurvivalError, match="has 0.0 GB free and 0.0 GB are needed; free some space or choose"):
        s5cmd.fetch(some, tmp_path, s5cmd.find_endpoint(world.front.url), quiet)


def test_the_disk_gets_full(world, some, tmp_path, monkeypatch):
    """Somebody else's files filled it meanwhile."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        monkeypatch.setattr(s5cmd, "_check_space", lambda waiting, target: None)
        with pytest.raises(CNNSurvivalError, match="the disk is full; free some space or choose another folder"):
            s5cmd.fetch(some, disk / "series", s5cmd.find_endpoint(world.front.url), quiet)
        world.assert_whole(disk / "series")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_s5cmd_is_not_installed(some, tmp_path, monkeypatch):
    monkeypatch.setattr(s5cmd.shutil, "which", lambda name: None)
    assert Path(s5cmd.program()).is_file()  # beside the package, as in an environment that is not activated
    monkeypatch.setattr(s5cmd.metadata, "distribution", _absent)
    with pytest.raises(UsageError, match="s5cmd is not installed here; run 'pip install"):
        s5cmd.program()


def _absent(name):
    raise s5cmd.metadata.PackageNotFoundError(name)
