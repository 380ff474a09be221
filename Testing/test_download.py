"""download: what is chosen, offline; nothing here touches the network."""

import pandas as pd
import pytest

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from training_cli.cli import main
from training_cli.cohort import download


def series(patient, study, uid, modality, description="", analysis=None, size=10.0, count=3):
    return {
        "collection_id": "made_up", "analysis_result_id": analysis, "PatientID": patient, "StudyInstanceUID": study,
        "StudyDate": "2020-01-0" + study[-1], "SeriesInstanceUID": uid, "SeriesDescription": description,
        "Modality": modality, "series_size_MB": size, "instanceCount": count, "license_short_name": "CC BY 4.0",
    }  # fmt: skip


@pytest.fixture
def index():
    return pd.DataFrame([
        series("a", "s1", "a.ct", "CT"),
        series("a", "s1", "a.ct2", "CT"),
        series("a", "s1", "a.seg", "SEG"),
        series("a", "s1", "a.rt", "RTSTRUCT"),
        series("a", "s1", "a.robot", "RTSTRUCT", analysis="somebodys_network"),
        series("b", "s1", "b.ct", "CT"),
        series("b", "s2", "b.seg", "SEG"),  # in a study without a CT
        series("c", "s1", "c.seg", "SEG"),
        series("c", "s1", "c.ct", "CT", size=990.0),
    ])  # fmt: skip


def test_a_contour_and_the_ct_of_its_study_are_chosen(index):
    chosen = download.select(index, "Made-Up")
    assert chosen.patients == ["a", "c"] and chosen.without == ["b"]
    assert list(chosen.series["SeriesInstanceUID"]) == ["a.rt", "a.ct", "a.ct2", "c.seg", "c.ct"]
    assert chosen.gigabytes == pytest.approx(1.03) and chosen.licences == ["CC BY 4.0"]
    assert download.select(index, "made_up", patients=1).patients == ["a"]


def test_collections_that_are_not_there(index):
    with pytest.raises(UsageError, match="no collection 'made_down'; did you mean made_up?"):
        download.select(index, "made_down")
    with pytest.raises(UsageError, match="no patient with a CT"):
        download.select(index[index["PatientID"] == "b"], "made_up")


class Client:
    """Stands for idc-index's; writes what it is asked for, or fails half-way."""

    def __init__(self, fail_after=None):
        self.asked, self.fail_after = [], fail_after

    def download_from_selection(self, downloadDir, seriesInstanceUID, **options):
        from pathlib import Path

        for number, uid in enumerate(seriesInstanceUID):
            if number == self.fail_after:
                raise OSError("no route to host")
            self.asked.append(uid)
            folder = Path(downloadDir) / uid
            folder.mkdir()
            for instance in range(3):
                (folder / f"{instance}.dcm").write_bytes(b"")


def test_a_download_goes_on_where_it_stopped(index, tmp_path):
    chosen = download.select(index, "made_up")
    with pytest.raises(CNNSurvivalError, match="no route to host.*give the same command again"):
        download.download(chosen, tmp_path, Client(fail_after=2), log=lambda text: None)
    client = Client()
    assert download.download(chosen, tmp_path, client, log=lambda text: None) == tmp_path / "series"
    assert client.asked == ["a.ct2", "c.seg", "c.ct"]
    said = []
    download.download(chosen, tmp_path, Client(fail_after=0), log=said.append)
    assert said == ["5 of 5 series are here already."]


@pytest.mark.parametrize(
    "collection, patients, licence",
    [
        ("nsclc_radiomics", "422", "CC BY-NC 3.0"),
        ("nsclc_radiogenomics", "144", "CC BY 3.0"),
        ("cptac_pda", "68", "CC BY"),
    ],
)
def test_the_cohorts_that_we_name_are_there(capsys, collection, patients, licence):
    """In idc-index's own tables, offline. The paper's cohort 1 has 422 patients."""
    pytest.importorskip("idc_index_data")
    assert main(["download", collection, "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert f"patients    {patients}" in output and licence in output and "GB" in output


def test_without_a_folder_nothing_is_fetched(capsys):
    assert main(["download", "nsclc_radiomics"]) == 2
    assert "--output, or --dry-run" in capsys.readouterr().err
