"""The paper's question by one command: two made-up cohorts, from a server on loopback to the report."""

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest

from training_cli.cli import main
from training_cli.cohort.follow_up import read_mappings
from training_cli.models.card import read_card
from training_cli.study.config import read_study

for package in ("torch", "lightning", "sksurv", "jinja2", "idc_index_data", "moto"):
    pytest.importorskip(package)

CONFIGS = Path(__file__).resolve().parents[1] / "training_cli" / "configs"
# The same study for 12 + 12 patients: fewer epochs and resamples; all else is as it is.
SMALLER = (
    ('card = "pdac-card.toml"', f'card = "{CONFIGS / "pdac-card.toml"}"'),
    ("bootstrap = 1000", "bootstrap = 100"),
    ("folds = 3", "folds = 2"),
    ("at_epochs = [5, 10, 20]", "at_epochs = []"),
    ("crossvalidate = { epochs = 20 }", "crossvalidate = { epochs = 1 }\npretrain = { epochs = 2 }"),
    ("crossvalidate = true", "crossvalidate = { epochs = 1 }"),
    ("epochs = 12\n", "epochs = 12\nbatch = 8\n"),
    ("learning_rate = 3e-4", "learning_rate = 1e-3"),
)


def smaller_study(folder):
    text = (CONFIGS / "pdac.toml").read_text(encoding="utf-8")
    for old, new in SMALLER:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    if importlib.util.find_spec("radiomics") is None:  # it is compiled on installing
        text = text.replace('"radiomics", ', "")
    (folder / "pdac.toml").write_text(text, encoding="utf-8")
    return folder / "pdac.toml"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from pdac_world import files_of, make_world
    from s3_server import S3Server

    made, server = make_world(tmp_path_factory.mktemp("world")), S3Server()
    for bucket, key, path in files_of(made):
        server.put(bucket, key, path.read_bytes())
    yield made, server.url
    server.stop()


@pytest.fixture(scope="module")
def command(world, tmp_path_factory):
    """The command; what it prints is in its log."""
    folder = tmp_path_factory.mktemp("pdac")
    config = smaller_study(folder)
    return ["reproduce", str(config), "--output", str(folder / "work"), "--endpoint", world[1], "--index",
            str(world[0].index), "--jobs", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def work(command):
    assert main([*command, "--debug"]) == 0
    return Path(command[3])


def test_dry_run_says_what_it_will_take(command, capsys):
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "nsclc_radiomics: 12 patients" in said and "CC BY-NC 3.0" in said
    assert "cptac_pda: 12 patients" in said and "CC BY 4.0" in said
    assert "GB are free" in said and "measured here" in said and "assumed" in said and "together" in said


def test_images_and_follow_up_are_joined(work, world):
    manifest = pd.read_csv(work / "data/cptac/manifest.csv", dtype={"centre": str})
    assert sorted(manifest["patient_id"]) == sorted(name for name in world[0].sizes if name.startswith("C3"))
    assert manifest["centre"].value_counts().to_dict() == {"1078": 6, "3320": 6}
    assert set(manifest["segment"]) == {"PANCREAS - 1"} and set(manifest["event"]) == {0, 1}
    assert manifest["age_years"].between(64, 74).all() and set(manifest["n_stage"]) == {"N0", "N1", "N2"}
    facts = json.loads((work / "data/cptac/cohort.json").read_text())
    assert (facts["patients"], facts["followed"], facts["time_origin"]) == (12, 12, "Diagnosis, says the table")


def test_the_fine_tuned_network_finds_the_planted_signal(work):
    """Large tumours kill sooner. Each centre is predicted by a network that was fine-tuned on the other."""
    table = pd.read_csv(work / "held_out/metrics.csv", dtype={"group": str}).set_index(["model", "group"])
    for centre in ("1078", "3320"):
        assert table.loc[("pdac", centre), "patients"] == 6
    assert table.loc[("pdac", "mean within groups"), "concordance"] > 0.75
    tested = pd.read_csv(work / "test/metrics.csv").set_index(["model", "metric"])["value"]
    assert tested["pdac", "concordance"] > 0.75


def test_fine_tuning_learns_that_the_pancreas_kills_sooner(work):
    """The mean risk of the patients held out comes nearer to the share that died, and so do the patients' risks."""
    table = pd.read_csv(work / "held_out/predictions.csv")
    died = ((table["time_days"] <= 547.875) & (table["event"] == 1)).astype(float)  # nobody is censored before
    errors = (table["risk_547.875"] - died).groupby(table["model"])
    assert abs(errors.mean()["pdac"]) < abs(errors.mean()["pdac-pretrained"])
    brier = errors.apply(lambda error: (error**2).mean())
    assert brier["pdac"] < brier["pdac-pretrained"]


def test_models_1_and_2_the_report_and_the_bundles(work):
    models = set(pd.read_csv(work / "test/metrics.csv")["model"])
    assert {"pdac-zhang2020", "pdac", "pdac-pretrained", "outputs", "volume", "clinical"} <= models
    html = (work / "report/report.html").read_text(encoding="utf-8")
    assert "From the collections to the cohorts" in html and "Each centre held out" in html
    assert "What 5 patients with" in html and "can carry" in html and "Diagnosis, says the table" in html
    for name in ("pdac", "pdac-pretrained", "pdac-zhang2020", "pdac-zhang2020-pretrained"):
        card = (work / "models" / name / "MODEL_CARD.md").read_text(encoding="utf-8").replace("\\_", "_")
        assert "cptac_pda: Diagnosis, says the table" in card and "{time_origin}" not in card
        assert "12 of them with follow-up" in card


def test_a_finished_study_is_not_done_again(work, command, capsys):
    before = {path: path.stat().st_mtime_ns for kind in ("model.npz", "*.dcm") for path in work.rglob(kind)}
    assert len(before) > 300
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for kind in ("model.npz", "*.dcm") for path in work.rglob(kind)} == before
    assert "epoch" not in capsys.readouterr().out


def test_the_configuration_that_ships_reads():
    study = read_study(CONFIGS / "pdac.toml")
    assert [each.collection for each in study.cohort] == ["nsclc_radiomics", "cptac_pda"]
    assert study.networks[0].pretrain.given == {} and study.networks[0].learn == "free"  # the paper's
    shipped = read_study(CONFIGS / "head-neck.toml").network.pretrain
    assert study.networks[1].pretrain == shipped  # ours
    assert "{time_origin}" in read_card(study.card_path).time_origin
    assert {"nsclc_radiomics", "cptac_pda"} <= {name for each in read_mappings() for name in each.collections}


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('cohort = "cptac"', 'cohort = "cptak"', "has no [[cohort]] with the name 'cptak'; it has: nsclc, cptac."),
        ('name = "cptac"', 'name = "nsclc"', "has two [[cohort]] of one name"),
        ('name = "cptac"', 'name = "../cptac"', "'name' in [[cohort]] number 2 must be a name of letters, digits"),
        ('cohort = "nsclc"\n', "", "lacks 'manifest' in [data]; add it, or name a [[cohort]] for 'NSCLC-Radiomics'"),
        ("finetune_share = 0.6", "finetune_share = 1.6", "'finetune_share' in [finetuning] must be a number between"),
        ("finetune_share = 0.6", "", "lacks 'finetune_patients' or 'finetune_share' in [finetuning]"),
        ('learn = "auto"', 'learn = "all"', "'learn' in [[network]] number 2 must be"),
        ('collection = "cptac_pda"', 'collection = "cptac_pda"\nclinical = "none.csv"', "none.csv' does not exist"),
    ],
)
def test_mistakes_in_the_configuration_are_named(tmp_path, capsys, old, new, words):
    config = smaller_study(tmp_path)
    text = config.read_text()
    assert text.count(old) == 1
    config.write_text(text.replace(old, new))
    assert main(["reproduce", str(config), "--output", str(tmp_path / "work"), "--endpoint", "http://127.0.0.1:9"]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
