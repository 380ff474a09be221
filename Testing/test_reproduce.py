"""The whole study on a made-up cohort: a planted signal is found. Without one: test_reproduce_no_signal.py."""

import json

import pandas as pd
import pytest

from CNNSurvivalLib.bundle import load_bundle
from cohort_maker import make_images
from training_cli.cli import main
from training_cli.study.config import read_study

for package in ("torch", "lightning", "sksurv", "jinja2"):
    pytest.importorskip(package)

CONFIG = """
title = "A made-up study"
seed = 1
horizons_days = [547.875]
bootstrap = 100
card = "card.toml"
baselines = ["outputs", "volume", "clinical"]

[data]
manifest = "manifest.csv"

[pretrain]
label = "First"
where = { cohort = "first" }

[finetuning]
label = "Second"
where = { cohort = "second" }
finetune_patients = 14

[crossvalidation]
folds = 2
finetune_folds = 2

[[network]]
id = "made-up"
title = "A made-up model"
crossvalidate = { epochs = 1 }
pretrained_only = true
[network.pretrain]
epochs = 5
learning_rate = 1e-3
marginal_start = true
recalibrate = true
"""

CARD = "\n".join(f'{name} = "made up"' for name in ("disease", "treatment", "ct", "endpoint", "time_origin",
                                                    "contours", "licence"))  # fmt: skip
CARD += "".join(
    f'\n[cohorts.{role}]\nname = "{role}"\nsites = "none"\ndates = "none"\nsource = "made up"\nlicence = "CC0"\n'
    for role in ("pretraining", "finetuning", "test")
)


def study(folder, config=CONFIG, **options):
    make_images(folder, 70, **options)
    (folder / "card.toml").write_text(CARD)
    (folder / "study.toml").write_text(config)
    assert main(["reproduce", str(folder / "study.toml"), "--output", str(folder / "work"), "--debug"]) == 0
    return folder / "work"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return study(tmp_path_factory.mktemp("signal"))


def metric(work, model, name):
    table = pd.read_csv(work / "test" / "metrics.csv").set_index(["model", "metric"])
    return table.loc[(model, name), "value"]


def test_the_planted_signal_is_found(work):
    assert metric(work, "made-up", "concordance") > 0.75
    assert metric(work, "volume", "concordance") > 0.75
    assert abs(metric(work, "clinical", "concordance") - 0.5) < 0.3


def test_the_split_is_by_patient_and_everybody_is_accounted_for(work):
    split = pd.read_csv(work / "split.csv")
    assert split["patient_id"].is_unique and len(split) == 28
    assert (split["part"] == "finetune").sum() == 14
    assert list(split.loc[split["usable"] == 0, "patient_id"]) == ["s069"]
    tuned = json.loads((work / "runs/made-up/finetune/run.json").read_text())
    tested = set(pd.read_csv(work / "test/predictions_made-up.csv")["patient_id"])
    assert not tested & set(tuned["store"]["patients"])
    assert not tested & set(tuned["parent"]["store"]["patients"])
    assert len(tested) + len(tuned["store"]["patients"]) == 27


def test_the_report_is_one_file_with_tables_beside_it(work):
    html = (work / "report/report.html").read_text()
    assert "A made-up study" in html and "made-up" in html and "Age and stage" in html
    assert "http:" not in html and "https:" not in html and "<script" not in html
    assert html.count("data:image/png;base64,") >= 8
    table = pd.read_csv(work / "report/tables/table1_models.csv")
    assert "Tumour volume alone, Cox" in set(table["Model"])
    excluded = pd.read_csv(work / "report/tables/excluded.csv")
    assert excluded["Patients"].sum() == 1


def test_the_bundles_are_what_the_module_runs(work, tmp_path):
    bundle = load_bundle(work / "models" / "made-up")
    assert {m["name"] for m in bundle.info["metrics"]} >= {"concordance", "ipa", "brier", "auc"}
    assert (work / "models" / "made-up-pretrained" / "MODEL_CARD.md").is_file()
    case = ["--image", str(work.parent / "s000_ct.nrrd"), "--mask", str(work.parent / "s000_mask.nrrd")]
    assert main(["predict", *case, "--model", str(bundle.folder), "--output", str(tmp_path / "out")]) == 0


def test_a_finished_study_is_not_done_again(work, capsys):
    before = {path: path.stat().st_mtime_ns for path in work.rglob("model.npz")}
    assert main(["reproduce", str(work.parent / "study.toml"), "--output", str(work)]) == 0
    assert {path: path.stat().st_mtime_ns for path in work.rglob("model.npz")} == before
    assert "epoch" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("seed = 1", "sead = 1", "unknown key 'sead'; allowed are: title, card, data,"),
        ("finetune_patients = 14", "", "lacks 'finetune_patients'"),
        ('title = "A made-up study"', "", "lacks 'title'"),
        ('title = "A made-up study"', "title = 3", "'title' must be a text in quotes that is not empty; it is 3."),
        ("finetune_patients = 14", "finetune_patients = '14'", "'finetune_patients' in [finetuning] must be a whole"),
        ("seed = 1", "seed = true", "'seed' must be a whole number, 0 or more; it is True."),
        ("learning_rate = 1e-3", 'learning_rate = "1e-3"', "'learning_rate' in [[network]] number 1, pretrain must be"),
        ("epochs = 5", "best_slices = 'some'", "must be a whole number, 1 or more, or \"all\"; it is 'some'."),
        ("{ epochs = 1 }", "3", "'crossvalidate' in [[network]] number 1 must be true, false or a table of settings"),
        ("[data]", "[data]\nhu_window = [240, -160]", "'hu_window' in [data] must be two rising numbers"),
        ("horizons_days = [547.875]", "horizons_days = [nan]", "'horizons_days' must be a list of numbers of days"),
        ("[crossvalidation]\nfolds = 2", "[crossvalidation]\nfolds = 1", "'folds' in [crossvalidation] must be"),
        ("[finetuning]", "[second]", "[second], which is called [finetuning] now"),
        ("[[network]]", "[network]", "'network' must be tables, [[network]] each"),
        ("epochs = 5", "epoch = 5", "unknown key 'epoch' in [[network]] number 1, pretrain; allowed are: epochs,"),
        ('manifest = "manifest.csv"', 'manifest = "nowhere.csv"', "does not exist"),
        ("[data]", "[data", "cannot be read"),
        ('baselines = ["outputs", "volume", "clinical"]', 'baselines = ["volum"]', "'volum'"),
    ],
)
def test_mistakes_in_the_configuration_are_named(tmp_path, capsys, old, new, words):
    (tmp_path / "manifest.csv").write_text("patient_id,cohort,image,mask,time_days,event\n")
    (tmp_path / "study.toml").write_text(CONFIG.replace(old, new, 1))
    assert main(["reproduce", str(tmp_path / "study.toml"), "--output", str(tmp_path / "work")]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and "pydantic" not in err


def test_our_own_configuration_reads():
    from pathlib import Path

    from training_cli.models.card import read_card

    path = Path(__file__).resolve().parents[1] / "training_cli/configs/nsclc.toml"
    found = read_study(path)
    assert found.finetuning.finetune_patients == 68 and len(found.networks) == 2
    assert found.networks[0].pretrain.given == {} and found.networks[0].finetune.given == {}  # the paper's
    assert read_card(found.card_path).licence.startswith("Weights CC BY-NC")


def test_the_configuration_takes_every_setting_of_training():
    from dataclasses import fields

    from training_cli.study.config import Departures
    from training_cli.training.train import Settings

    assert list(Departures.model_fields) == [field.name for field in fields(Settings)]
