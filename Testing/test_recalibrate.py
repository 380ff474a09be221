"""A bundle for a site's own patients: the shift is found, the new bundle is used, and mistakes are named."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

for package in ("pandas", "sklearn", "torch", "lightning", "jinja2"):
    pytest.importorskip(package)

import pandas as pd  # noqa: E402

from bundle_maker import bundle_info, bundle_info_2, random_weights  # noqa: E402
from CNNSurvivalLib.bundle import load_bundle, save_bundle  # noqa: E402
from CNNSurvivalLib.errors import UsageError  # noqa: E402
from CNNSurvivalLib.hazards import exponential_edges, hazards_from_logits  # noqa: E402
from cohort_maker import make_store  # noqa: E402
from training_cli.cli import main  # noqa: E402
from training_cli.cohort.store import open_store  # noqa: E402
from training_cli.cohort.store_files import preprocessing_info  # noqa: E402
from training_cli.models.populations import cohort_scores  # noqa: E402
from training_cli.models.recalibrate import recalibrate  # noqa: E402
from training_cli.training.runs import learned_from, load_network, patients_sha256  # noqa: E402

EDGES = exponential_edges()
SHIFT = 1.2


def quiet_weights():
    """A network whose hazards differ between patients, by less than chance does."""
    weights = random_weights()
    weights["output.bias"] -= 0.7
    weights["output.weight"] = np.tile(weights["output.weight"][:1] * 0.2, (19, 1)).astype(np.float32)
    return weights


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    weights = quiet_weights()
    return save_bundle(tmp_path_factory.mktemp("bundle") / "b", bundle_info(weights), weights)


@pytest.fixture(scope="module")
def site(tmp_path_factory, bundle):
    """A store whose patients die as the bundle says, the hazards' logits raised by SHIFT and 0.05 per year."""
    folder = make_store(tmp_path_factory.mktemp("site") / "store", patients=110, slices=1)
    info = json.loads((folder / "store.json").read_text())
    info["preprocessing"] = preprocessing_info(bundle.preprocessing)
    (folder / "store.json").write_text(json.dumps(info))
    scores = cohort_scores(bundle.weights, open_store(folder), EDGES)
    random = np.random.default_rng(4)
    age = random.uniform(50, 80, 110)
    truth = scores.logits[:, 0] + SHIFT + 0.05 * (age - 65)[:, None]
    dies = random.random(truth.shape) < hazards_from_logits(truth)
    event = dies.any(axis=1)
    interval = np.where(event, dies.argmax(axis=1), 18)
    died = np.where(event, EDGES[interval] + random.random(len(age)) * np.diff(EDGES)[interval], EDGES[-1] + 30)
    followed = random.uniform(300, 4000, len(age))
    time, event = np.minimum(died, followed), event & (died <= followed)
    patients = pd.read_csv(folder / "patients.csv")
    patients["time_days"], patients["event"], patients["age_years"] = time, event.astype(int), age.round(1)
    patients.to_csv(folder / "patients.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def found(bundle, site, tmp_path_factory):
    output = tmp_path_factory.mktemp("new") / "n"
    return recalibrate(bundle.folder, open_store(site), output, "my-site", "Patients of my site",
                       covariates=["age_years"], resamples=20)  # fmt: skip


def test_the_shift_is_recovered_and_pays_on_those_left_out(found):
    assert found.shift == pytest.approx(SHIFT, abs=0.35)
    assert found.patients == 110 and 60 < found.deaths < 110
    assert found.after["ipa"] > found.before["ipa"] + 0.05 and found.after["loss"] < found.before["loss"]
    assert found.after["concordance"] > found.before["concordance"] + 0.02  # of the age


def test_a_bundle_of_version_1_keeps_its_population_and_gets_another(found, bundle):
    new = load_bundle(found.bundle.folder)
    assert new.info["format_version"] == 2 and new.id == "random-1.0-my-site"
    assert [p.name for p in new.populations] == ["reference-cohort", "my-site"]
    images, _ = new.self_test
    assert new.population.kaplan_meier[1] == pytest.approx(bundle.population.kaplan_meier[1])
    assert all(np.array_equal(new.network_weights[name], bundle.weights[name]) for name in bundle.weights)
    site = new.for_population("my-site").population
    assert site.title == "Patients of my site" and "110 patients" in site.reference_label
    assert [c.name for c in site.covariates] == ["age_years"]
    assert site.info["terms"][0]["coefficients"]["age_years"] == pytest.approx(0.05, abs=0.025)
    assert site.interval_level == 0.95 and site.ranges["largest_area_px"][0] > 0
    assert site.kaplan_meier[0][1] == pytest.approx(30.4375)  # monthly: of nobody's own time
    assert {m["name"] for m in site.metrics} == {"concordance", "ipa"}


def test_the_card_tells_of_it_and_nobody_is_named(found):
    card = (found.bundle.folder / "MODEL_CARD.md").read_text()
    assert "Added in version 1.0-my-site: Patients of my site" in card and f"{found.deaths} of whom died" in card
    assert "m000" not in card and "m000" not in (found.bundle.folder / "bundle.json").read_text()
    assert found.bundle.info["changes"][0].startswith("1.0-my-site: population 'my-site' added")


def test_predict_uses_the_new_population(found, tmp_path, sphere, capsys):
    hu, mask = sphere()
    for name, array in (("ct", hu), ("mask", mask)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.0, 1.0, 3.0))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    risks = {}
    for population in ("reference-cohort", "my-site"):
        call = ["predict", "--image", tmp_path / "ct.nrrd", "--mask", tmp_path / "mask.nrrd", "--model",
                found.bundle.folder, "--population", population, "--output", tmp_path / population]  # fmt: skip
        assert main([str(part) for part in call]) == 0
        content = json.loads((tmp_path / population / "prediction.json").read_text())
        assert content["population"]["name"] == population
        risks[population] = content["risk"]
    assert "Population: Patients of my site" in capsys.readouterr().out
    assert risks["my-site"] > risks["reference-cohort"] + 0.1


def test_its_own_patients_are_not_scored_silently(found, site, tmp_path, capsys):
    call = ["evaluate", "--model", str(found.bundle.folder), "--store", str(site), "--bootstrap", "0"]
    assert main([*call, "--population", "my-site", "--output", str(tmp_path / "no")]) == 2
    assert "learned from 110 of the 110 patients" in capsys.readouterr().err
    assert main([*call, "--output", str(tmp_path / "default")]) == 0  # the network has not learned from them
    assert "Population: 100 invented patients (the model's default)" in capsys.readouterr().out
    call = [*call, "--population", "my-site", "--also-trained-on", "--output", str(tmp_path / "site")]
    assert main(call) == 0
    assert "Population: Patients of my site\n" in capsys.readouterr().out
    ratio = [pd.read_csv(tmp_path / name / "metrics.csv").set_index("metric")["value"]["oe_ratio"]
             for name in ("default", "site")]  # fmt: skip
    assert ratio[1] == pytest.approx(1, abs=0.15) and ratio[0] > 1.5


def test_a_bundle_knows_its_patients_by_their_digests(tmp_path):
    info = bundle_info_2(training={"patients_sha256": patients_sha256(["a", "b"]),
                                   "parent": {"patients_sha256": patients_sha256(["c"])}})  # fmt: skip
    save_bundle(tmp_path / "b", info, random_weights())
    assert learned_from(load_network(tmp_path / "b")) == set(patients_sha256("abc"))


def test_the_command_says_what_it_did_and_may_be_given_again(bundle, site, tmp_path, capsys, monkeypatch):
    from training_cli.models import populations

    monkeypatch.setattr(populations.fit_interval, "__defaults__", (0.0, 0.95, 20, 2020, 0.0))
    listed = tmp_path / "patients.csv"
    listed.write_text("patient_id\n" + "\n".join(f"m{n:03d}" for n in range(50)))
    call = ["recalibrate", bundle.folder, site, "--name", "mine", "--title", "Mine", "--kind", "shift", "--default",
            "--patients", listed, "--output", tmp_path / "new"]  # fmt: skip
    for _ in range(2):
        assert main([str(part) for part in call]) == 0
        out = capsys.readouterr().out
        assert "fitted on 50 patients, " in out and "shift, on average +" in out
        assert "Concordance" in out and "IPA" in out and "random-1.0-mine" in out
    assert load_bundle(tmp_path / "new").population.name == "mine"
    assert main([str(part) for part in [*call[:4], "other", *call[5:]]]) == 2
    assert "holds another model (random-1.0-mine)" in capsys.readouterr().err


def test_mistakes_are_named_and_nothing_is_written(bundle, site, tmp_path):
    store, out = open_store(site), tmp_path / "out"
    died = store.patients.index[store.event][:9]
    lived = store.patients.index[~store.event]
    part = store.part([*died, *lived])
    with pytest.raises(UsageError, match=f"Only 9 of the {9 + len(lived)} patients .* --few"):
        recalibrate(bundle.folder, part, out, "a", "A")
    for name, words in (("my site", "no short name"), ("reference-cohort", "has a population 'reference-cohort'")):
        with pytest.raises(UsageError, match=words):
            recalibrate(bundle.folder, store, out, name, "A")
    with pytest.raises(UsageError, match="'weight' is no covariate .* age_years"):
        recalibrate(bundle.folder, store, out, "a", "A", covariates=["weight"])
    with pytest.raises(UsageError, match="'hpv' is known of no patient"):
        recalibrate(bundle.folder, store, out, "a", "A", covariates=["hpv"])
    trained = bundle_info(quiet_weights(), training={"patients_sha256": patients_sha256(["m001", "m002"])})
    save_bundle(tmp_path / "trained", trained, quiet_weights())
    with pytest.raises(UsageError, match="learned from 2 of the 110 patients"):
        recalibrate(tmp_path / "trained", store, out, "a", "A")
    assert not out.exists()
