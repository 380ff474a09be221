"""A transfer study on a made-up world: one network, two populations, and a bundle that predicts for each."""

import pandas as pd
import pytest

from CNNSurvivalLib.bundle import load_bundle
from CNNSurvivalLib.errors import UsageError
from cohort_maker import make_images
from training_cli.cli import main
from training_cli.cohort.store import open_store
from training_cli.evaluation.evaluate import network_for
from training_cli.study.config import read_study
from training_cli.training.runs import check_not_learned_from, patients_sha256

for package in ("torch", "lightning", "sksurv", "jinja2"):
    pytest.importorskip(package)

CONFIG = """
title = "A made-up transfer"
seed = 1
horizons_days = [547.875]
bootstrap = 50
card = "card.toml"
sanity_tumours = 3

[data]
manifest = "manifest.csv"

[pretrain]
label = "First"
where = { cohort = "first" }

[network]
id = "made-up"
title = "A made-up model"
[network.pretrain]
epochs = 5
batch = 12
learning_rate = 1e-3
marginal_start = true
dropout_from = 3
shared_output = true
growth = 1.0
recalibrate = true

[crossvalidation]
folds = 2

[[population]]
name = "first"
title = "The first patients"
label = "First"
pretraining = true
default = true
covariates = ["age_years"]

[[population]]
name = "second"
title = "The second patients"
label = "Second"
where = { cohort = "second" }
hold_out = "hospital"
baselines = ["outputs"]
"""
CARD = "\n".join(f'{name} = "made up"' for name in ("disease", "treatment", "ct", "endpoint", "time_origin",
                                                    "contours", "licence"))  # fmt: skip
CARD += "".join(
    f'\n[cohorts.{role}]\nname = "{role}"\nsites = "none"\ndates = "none"\nsource = "made up"\nlicence = "CC0"\n'
    for role in ("pretraining", "populations.second")
)


def prepared(folder, config=CONFIG):
    make_images(folder, 70)
    table = pd.read_csv(folder / "manifest.csv")
    table["hospital"] = ["north", "south"] * (len(table) // 2)
    table.to_csv(folder / "manifest.csv", index=False)
    (folder / "card.toml").write_text(CARD)
    (folder / "study.toml").write_text(config)
    return folder / "study.toml"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    assert main(["reproduce", str(prepared(folder)), "--output", str(folder / "work"), "--debug"]) == 0
    return folder / "work"


def test_the_bundle_has_both_populations_and_says_how_good_they_are(work):
    bundle = load_bundle(work / "models" / "made-up")
    assert [each.name for each in bundle.populations] == ["first", "second"]
    assert [c.name for c in bundle.population.covariates] == ["age_years"]
    names = {(m["predictor"], m["name"]) for each in bundle.populations for m in each.metrics}
    assert {("image", "concordance"), ("image minus largest area", "concordance")} <= names
    card = (bundle.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "## What a radiologist would try" in card and "The tumour grows" in card
    assert "## Whom it can be used for" in card and "The second patients" in card and "not shown" in card


def test_a_planted_signal_is_found_in_patients_held_out(work):
    for name in ("first", "second"):
        table = pd.read_csv(work / "populations" / name / "metrics.csv").set_index(["predictor", "name"])
        assert table.loc[("image", "concordance"), "value"] > 0.7


def test_each_hospital_is_held_out_and_every_patient_is_predicted_once(work):
    table = pd.read_csv(work / "populations" / "second" / "held_out.csv")
    assert set(table["group"]) == {"north", "south"} and table["patient_id"].is_unique
    groups = pd.read_csv(work / "populations" / "second" / "by_group.csv")
    assert {"north", "south", "all", "mean within groups"} == set(groups["group"])
    assert {"image", "largest area", "outputs (baseline)"} <= set(groups["model"])


def test_a_population_knows_whom_it_was_calibrated_on(work):
    """So that ``evaluate`` can refuse to score it on them."""
    store = open_store(work / "stores" / "second")
    bundle = load_bundle(work / "models" / "made-up")
    asked = network_for(str(bundle.folder), "second")
    with pytest.raises(UsageError, match=f"learned from {len(store.patient_ids)} of the"):
        check_not_learned_from(asked, store)
    assert set(asked.bundle.population.info["patients_sha256"]) == set(patients_sha256(store.patient_ids))


def test_the_report_has_every_population(work):
    page = (work / "report" / "report.html").read_text(encoding="utf-8")
    assert "The first patients" in page and "The second patients" in page and "held out" in page


def test_predict_takes_the_bundle_for_either_population(work, tmp_path, capsys):
    manifest = work.parent / "manifest.csv"
    risks = []
    for name in ("first", "second"):
        bundle = load_bundle(work / "models" / "made-up").for_population(name)
        assert bundle.population.reference_label.endswith(name.capitalize())
        risks.append(bundle.network_weights["output.bias"])
    assert not (risks[0] == risks[1]).all() and manifest.is_file()


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("default = true", "default = false", "needs one population with default = true"),
        ('covariates = ["age_years"]', 'covariates = ["shoe_size"]', "covariate 'shoe_size'"),
        ('name = "second"', 'name = "first"', "two populations of one name"),
    ],
)
def test_mistakes_in_the_configuration(tmp_path, old, new, words):
    path = prepared(tmp_path, CONFIG.replace(old, new))
    with pytest.raises(UsageError, match=words):
        read_study(path)
