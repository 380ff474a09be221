"""From a run to a bundle that explains itself, and to files that other software reads."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bundle_maker import bundle_info, made_images, random_weights
from CNNSurvivalLib.bundle import default_bundle_folder, find_bundles, load_bundle, save_bundle, shipped_models_folder
from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import write_csv
from CNNSurvivalLib.hazards import exponential_edges, kaplan_meier, survival_at, survival_function
from cohort_maker import make_store
from training_cli import cli
from training_cli.cohort.store import open_store
from training_cli.cohort.store_files import preprocessing_info
from training_cli.commands.export import add_export
from training_cli.models import formats
from training_cli.models.bundle import export_bundle
from training_cli.models.card import read_card
from training_cli.models.model_card import CARD_FILE, model_card, months_text
from training_cli.training.runs import learned_from, load_network, load_run, patients_sha256, save_run

COHORT = """
name = "{}"
sites = "Two hospitals"
dates = "2010 to 2012"
source = "doi 10.0000/example"
licence = "CC BY-NC 3.0"
"""
CARD = f"""
disease = "Lung cancer | NSCLC"
treatment = "Radiotherapy"
ct = "Planning CT"
endpoint = "Death from any cause"
time_origin = "Start of treatment"
contours = "Drawn by radiation oncologists"
licence = "CC BY-NC 3.0: non-commercial research only"
limitations = ["Few patients"]
citation = ["Aerts 2014"]
[cohorts.pretraining]
{COHORT.format("Maastricht")}
exclusions = "Nobody"
[cohorts.finetuning]
{COHORT.format("Stanford")}
[cohorts.test]
{COHORT.format("Palo Alto")}
"""
METRICS = [
    {"metric": "concordance", "horizon_days": 547.875, "value": 0.475, "ci_low": 0.345, "ci_high": 0.61},
    {"metric": "ipa", "horizon_days": 547.875, "value": 0.05, "ci_low": 0.01, "ci_high": 0.09},
    {"metric": "integrated_brier", "horizon_days": None, "value": 0.2, "ci_low": None, "ci_high": None},
    {"metric": "auc", "horizon_days": 547.875, "value": None, "ci_low": None, "ci_high": None},
]
CALIBRATION = pd.DataFrame({
    "group": [1, 2], "patients": [8, 8], "mean_predicted": [0.21, 0.6], "observed": [0.3, 0.44],
    "ci_low": [0.1, np.nan], "ci_high": [0.5, np.nan],
})  # fmt: skip


SHIPPED = [bundle for _, bundle, _ in find_bundles([shipped_models_folder()])]


def run_info(store, patients, kind="pretrain", **more):
    """run.json of a training on some of a store's patients."""
    part = store.part(patients)
    return {
        "kind": kind, "settings": {"epochs": 3, "seed": 5}, "departures": [],
        "edges_days": exponential_edges().tolist(),
        "preprocessing": preprocessing_info(store.preprocessing),
        "store": {"sha256": store.sha256, "patients": list(patients)},
        "cohort": {"patients": len(part.patients), "deaths": int(part.event.sum()), "slices": len(part.slices),
                   "slices_kept": len(part.slices) - 1, "patients_kept": len(part.patients)},
        "epochs_done": 3, "losses": [2.4, 2.3, 2.2], "versions": {"torch": "2"}, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Folders: store, run (pretrained on all), tuned (fine-tuned on the first 8 patients), split.csv, card.toml,
    metrics.csv, calibration.csv."""
    folder = tmp_path_factory.mktemp("study")
    store = open_store(make_store(folder / "store", patients=16, slices=2))
    (folder / "store" / "rejected.csv").write_text("patient_id,reason\nm900,empty\nm901,small\n", encoding="utf-8")
    parent = run_info(store, store.patient_ids)
    for name, info in (
        ("run", parent),
        ("tuned", run_info(store, store.patient_ids[:8], "finetune", parent=parent)),
    ):
        (folder / name).mkdir()
        save_run(folder / name, info, random_weights())
    split = [(p, "finetune" if n < 8 else "test") for n, p in enumerate(store.patient_ids)]
    write_csv(folder / "split.csv", ("patient_id", "part"), split)
    (folder / "card.toml").write_text(CARD, encoding="utf-8")
    write_csv(folder / "metrics.csv", METRICS[0], [row.values() for row in METRICS])
    CALIBRATION.to_csv(folder / "calibration.csv", index=False)
    return folder


@pytest.fixture
def command(study, monkeypatch, capsys):
    """command(*args) -> (exit code, what was printed, errors), from the study's folder."""
    monkeypatch.chdir(study)
    if add_export not in cli.COMMANDS:
        monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, add_export))

    def run(*args):
        code = cli.main(["export", *map(str, args)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


BUNDLE_ARGS = ("--card", "card.toml", "--name", "tiny", "--title", "A tiny model")


# --- The bundle -------------------------------------------------------------------------------------------------------


def test_a_fine_tuned_run_becomes_a_bundle_with_everything_in_it(study, command, tmp_path):
    code, out, err = command(
        "tuned", "--store", "store", "--patients", "split.csv", "--part", "finetune", "--metrics", "metrics.csv",
        "--calibration", "calibration.csv", "--test-store", "store", "--test-patients", "split.csv", "--test-part",
        "test", "--version", "2.0", *BUNDLE_ARGS, "--output", tmp_path / "bundle",
    )  # fmt: skip
    assert code == 0, err
    assert "tiny-2.0" in out
    bundle, run, store = load_bundle(tmp_path / "bundle"), load_run(study / "tuned"), open_store(study / "store")
    assert all(np.array_equal(bundle.weights[name], run.weights[name]) for name in run.weights)
    first, second, test = bundle.info["cohorts"]
    assert [c["name"] for c in (first, second, test)] == ["Maastricht", "Stanford", "Palo Alto"]
    assert [c["patients"] for c in (first, second, test)] == [16, 8, 8]
    assert second["events"] + test["events"] == first["events"] == int(store.event.sum())
    assert [c["slices"] for c in (first, second, test)] == [31, 15, 16]
    assert first["exclusions"].startswith("Nobody. Of 32 usable slices 31")
    assert [m["name"] for m in bundle.info["metrics"]] == ["concordance", "ipa", "integrated_brier"]
    assert {m["cohort"] for m in bundle.info["metrics"]} == {"Palo Alto"}
    card = bundle.info["card"]
    assert card["external_validation"].startswith("One cohort, Palo Alto: 8 patients")
    assert (
        "18 months" in card["calibration"] and "21% against 30% (10% to 50%); 60% against 44%." in card["calibration"]
    )
    assert card["limitations"][0].startswith("It is not shown to rank patients better than chance: concordance 0.475 "
                                             "(0.345 to 0.610) at 18 months in Palo Alto")  # fmt: skip
    assert not any("one risk for everybody" in text for text in card["limitations"])
    assert "8 patients of Stanford" in bundle.population.reference_label


def test_where_there_is_no_card_one_is_written_to_be_completed(study, command, tmp_path):
    """Everything that this model needs, and nothing that it does not; the command is given again, and takes it."""
    args = ("run", "--store", "store", "--patients", "split.csv", "--part", "finetune", "--name", "tiny", "--title",
            "A tiny model", "--output", tmp_path / "bundle")  # fmt: skip
    test = ("--test-store", "store", "--test-patients", "split.csv", "--test-part", "test")
    code, _, err = command(*args, *test, "--card", tmp_path / "own.toml")
    assert code == 2 and "own.toml' was written" in err and not (tmp_path / "bundle").exists()
    text = (tmp_path / "own.toml").read_text(encoding="utf-8")
    named = re.findall(r"^\[cohorts\.(\w+)\]$", text, re.MULTILINE)
    assert named == ["pretraining", "test"] and "[cohorts.pretraining], and 'name'" in err
    assert "'licence'" in err and "'reference_label'" in err  # 8 of the 16 patients: who are they?
    (tmp_path / "own.toml").write_text(text.replace('= ""', '= "A \\"text\\""'), encoding="utf-8")
    code, _, err = command(*args, *test, "--card", tmp_path / "own.toml")
    assert code == 0, err
    assert load_bundle(tmp_path / "bundle").info["card"]["disease"] == 'A "text"'


@pytest.mark.parametrize(
    "more, words",
    [
        (("--metrics", "none.csv"), "'none.csv' does not exist"),
        (("--card", "nowhere/card.toml"), "The folder of the card 'nowhere' does not exist"),
        (("--format", "bundle", "--format", "safetensors"), "was written"),
    ],
)
def test_other_mistakes_come_before_the_card_and_the_card_before_the_work(command, tmp_path, more, words):
    args = ("run", "--store", "store", "--name", "a", "--title", "A", "--output", tmp_path / "b")
    code, _, err = command(*args, *more)
    assert code == 2 and words in err
    assert (tmp_path / "b-card.toml").exists() == (words == "was written") and not (tmp_path / "b").exists()


def test_a_bundle_that_was_fine_tuned_again_keeps_all_its_cohorts(study, command, tmp_path):
    """Pretrained, fine-tuned, exported; fine-tuned from that bundle, exported: three cohorts, two as before."""
    part = ("--patients", "split.csv", "--part", "finetune")
    code, _, err = command("tuned", "--store", "store", *part, *BUNDLE_ARGS, "--output", tmp_path / "one")
    assert code == 0, err
    store, parent = open_store(study / "store"), load_network(tmp_path / "one")
    info = run_info(store, store.patient_ids[8:], "finetune", parent=parent.info)
    (tmp_path / "tuned").mkdir()
    save_run(tmp_path / "tuned", info, random_weights())
    args = (tmp_path / "tuned", "--store", "store", "--patients", "split.csv", "--part", "test", "--name", "two",
            "--title", "Two", "--output", tmp_path / "two")  # fmt: skip
    code, _, err = command(*args)
    card = tmp_path / "two-card.toml"
    text = card.read_text(encoding="utf-8")
    assert code == 2 and "cohorts.pretraining" not in err and 'name = "Maastricht"' in text
    assert "# tiny-1.0 says: Lung cancer | NSCLC" in text
    text = text.replace('= ""', '= "New"').replace('sites = "Maastricht', 'sites = "Corrected: Maastricht')
    card.write_text(text, encoding="utf-8")
    assert command(*args)[0] == 0
    before, cohorts = load_bundle(tmp_path / "one").info["cohorts"], load_bundle(tmp_path / "two").info["cohorts"]
    assert [cohort["name"] for cohort in cohorts] == ["Maastricht", "Stanford", "New"]
    assert cohorts[1] == before[1] and cohorts[0]["exclusions"] == before[0]["exclusions"]
    assert [cohort["patients"] for cohort in cohorts] == [16, 8, 8]
    assert learned_from(load_network(tmp_path / "two")) == set(patients_sha256(store.patient_ids))


def test_the_reference_curve_and_risks_are_those_of_the_given_patients(study, tmp_path):
    run, store = load_run(study / "run"), open_store(study / "store")
    bundle = export_bundle(run, store, [], read_card(study / "card.toml"), "tiny", "Tiny", "1.0", tmp_path / "bundle")
    risks = []
    for patient in store.patient_ids:
        curves = survival_function(NumpyEngine(run.weights).hazards(store.images[store.rows(patient)]))
        risks.append(1 - float(survival_at(curves.mean(axis=0), run.edges_days, 547.875)))
    assert bundle.info["reference_cohort"]["risk_quantiles"] == pytest.approx(np.percentile(risks, np.arange(101)))
    days, survival = bundle.population.kaplan_meier
    assert np.allclose(np.diff(days), 30.4375)
    times, expected = kaplan_meier(store.time, store.event)
    for day, value in zip(days, survival):
        assert value == (expected[times <= day][-1] if (times <= day).any() else 1)
    card = bundle.info["card"]
    assert card["external_validation"] == "None" and card["calibration"] == "Not assessed"
    assert "How well it predicts was not measured" in card["limitations"]
    images, hazards = bundle.self_test
    assert NumpyEngine(bundle.weights).hazards(images) == pytest.approx(hazards, abs=1e-6)


def test_patients_left_out_are_counted_and_no_patient_is_named(study, tmp_path):
    card = changed_card(tmp_path, '\nexclusions = "Nobody"', "")
    run, store = load_run(study / "run"), open_store(study / "store")
    bundle = export_bundle(run, store, [], card, "tiny", "Tiny", "1.0", tmp_path / "bundle")
    assert bundle.info["cohorts"][0]["exclusions"].startswith("2 further patients were excluded")
    tuned, part = load_run(study / "tuned"), store.part(store.patient_ids[:8])
    other = export_bundle(tuned, part, [], card, "o", "O", "1", tmp_path / "other", training_stores=[store])
    assert other.info["cohorts"][0]["exclusions"].startswith("2 further patients were excluded")
    assert other.info["cohorts"][1]["exclusions"].startswith("Of 16 usable slices")
    for file in ("bundle.json", "MODEL_CARD.md"):
        text = (tmp_path / "bundle" / file).read_text(encoding="utf-8")
        assert "m00" not in text and "m90" not in text and str(study) not in text


def test_the_bundle_is_one_that_predict_takes_and_exporting_again_gives_the_same(study, command, tmp_path):
    args = ("run", "--store", "store", *BUNDLE_ARGS, "--output", tmp_path / "bundle")
    assert command(*args)[0] == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    assert set(files) == {"bundle.json", "weights.npz", "MODEL_CARD.md"}
    assert command(*args)[0] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()} == files


def test_another_model_is_not_replaced(study, command, tmp_path):
    assert command("run", "--store", "store", *BUNDLE_ARGS, "--output", tmp_path / "bundle")[0] == 0
    before = (tmp_path / "bundle" / "weights.npz").read_bytes()
    args = ("--card", "card.toml", "--name", "other", "--title", "Other")
    code, _, err = command("tuned", "--store", "store", *args, "--output", tmp_path / "bundle")
    assert code == 2 and "holds another model (tiny)" in err
    assert (tmp_path / "bundle" / "weights.npz").read_bytes() == before


@pytest.mark.parametrize(
    "args, words",
    [
        (("run",), "a bundle needs --store, --name, --title"),
        (("run", "--store", "store", "--part", "test", *BUNDLE_ARGS), "--part goes with --patients"),
        (("run", "--store", "store", "--test-part", "test", *BUNDLE_ARGS), "--test-part goes with --test-patients"),
        (("store", "--store", "store", *BUNDLE_ARGS), "holds no trained network"),
        (("run", "--store", "run", *BUNDLE_ARGS), "is not a store"),
        (("run", "--store", "store", "--metrics", "split.csv", *BUNDLE_ARGS), "no column 'metric'"),
        (("run", "--store", "store", "--metrics", "metrics.csv", *BUNDLE_ARGS), "name them with --metrics-cohort"),
        (("run", "--store", "store", "--calibration", "none.csv", *BUNDLE_ARGS), "'none.csv' does not exist"),
        (("run", "--store", "store", *BUNDLE_ARGS, "--card", "split.csv"), "cannot be read"),
        (("tuned", "--store", "store", "--patients", "split.csv", "--part", "test", *BUNDLE_ARGS), "reference_label"),
        (("run", "--format", "pickle"), "invalid choice"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(command, tmp_path, args, words):
    code, _, err = command(*args, "--output", tmp_path / "bundle")
    assert code == 2 and words in err and "Traceback" not in err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "table, words",
    [
        ('[checklists.claim]\n45 = "Here"\n', "CLAIM 2024 has no item '45'; correct the number in the card."),
        ("[checklists.claims]\n", "There is no checklist 'claims'; there are: claim, tripod_ai."),
    ],
)
def test_a_wrong_checklist_is_told_before_the_bundle_is_written(command, tmp_path, table, words):
    (tmp_path / "card.toml").write_text(CARD + table, encoding="utf-8")
    code, _, err = command("run", "--store", "store", *BUNDLE_ARGS, "--card", tmp_path / "card.toml",
                           "--output", tmp_path / "bundle")  # fmt: skip
    assert code == 2 and words in err and "Traceback" not in err
    assert not (tmp_path / "bundle").exists()


def test_a_store_cut_in_another_way_is_refused(study, tmp_path):
    run, store = load_run(study / "run"), open_store(study / "store")
    run.info["preprocessing"]["hu_window"] = [-100.0, 200.0]
    with pytest.raises(UsageError, match="hu_window"):
        export_bundle(run, store, [], read_card(study / "card.toml"), "a", "A", "1", tmp_path / "b")


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('disease = "Lung cancer | NSCLC"', "", "lacks 'disease'; write it, or \"not known\""),
        ('disease = "Lung', 'desease = "x"\ndisease = "Lung', "unknown key 'desease'; allowed are: disease, treatment"),
        ('ct = "Planning CT"', "ct = 3", "'ct' must be a text"),
        ('treatment = "Radiotherapy"', 'treatment = " "', "lacks 'treatment'; write it, or"),
        (
            'ct = "Planning CT"\nendpoint = "Death from any cause"',
            'endpoint = ""',
            "lacks 'ct', 'endpoint'; write them",
        ),
        ('limitations = ["Few patients"]', 'limitations = "Few patients"', "'limitations' must be a list"),
        ("[cohorts.test]", "[cohorts.tests]", "unknown key 'tests' in .cohorts.; allowed are: pretraining, finetuning"),
        ("[cohorts.finetuning]\n\nname", "[cohorts.finetuning]\n\nnames", r"'names' in \[cohorts.finetuning\]"),
        ("[cohorts.pretraining]", "[cohort.pretraining]", "has an unknown key 'cohort'"),
        ('licence = "CC BY-NC 3.0: ', 'licence = CC BY-NC 3.0: "', "cannot be read"),
    ],
)
def test_a_card_that_lacks_something_is_told(tmp_path, old, new, words):
    with pytest.raises(UsageError, match=words) as raised:
        changed_card(tmp_path, old, new)
    assert "changed.toml" in str(raised.value) and "\n" not in str(raised.value)


def changed_card(folder, old, new):
    """The card with one text replaced."""
    assert old in CARD
    (folder / "changed.toml").write_text(CARD.replace(old, new, 1), encoding="utf-8")
    return read_card(folder / "changed.toml")


def test_a_run_needs_the_texts_of_its_own_cohorts(study, tmp_path):
    texts = f'[cohorts.pretraining]\n{COHORT.format("Maastricht")}\nexclusions = "Nobody"\n'
    card = changed_card(tmp_path, texts, "")
    run, store = load_run(study / "run"), open_store(study / "store")
    with pytest.raises(UsageError, match="says nothing of the pretraining cohort"):
        export_bundle(run, store, [], card, "tiny", "Tiny", "1.0", tmp_path / "bundle")


# --- The model card ---------------------------------------------------------------------------------------------------


def test_the_card_of_the_model_that_ships_reads_in_a_clinicians_order():
    info = load_bundle(default_bundle_folder()).info
    text = model_card(info)
    # With populations the scores stand in the section of each.
    order = ["Research use only", info["card"]["disease"].split(";")[0], "Endpoint", "Time counts from",
             "Longest horizon", "Contours", "Patients", "Exclusions", "External validation", "Calibration",
             "Do not use it for", "Whom it can be used for", "Concordance", "Licence\n", "Citation"]  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    for metric in info["metrics"]:
        assert f"{metric['value']:.3f} ({metric['ci_low']:.3f} to {metric['ci_high']:.3f})" in text
    for cohort in info["cohorts"]:
        assert f"| {cohort['patients']} | {cohort['events']} | {cohort['slices']} |" in text


@pytest.mark.parametrize("bundle", SHIPPED, ids=lambda bundle: bundle.id)
def test_the_cards_that_ship_are_what_the_template_gives(bundle):
    assert (bundle.folder / CARD_FILE).read_bytes() == model_card(bundle.info).encode()


def test_the_cards_tables_are_tables_whatever_the_texts_hold(study, tmp_path):
    run, store = load_run(study / "run"), open_store(study / "store")
    card = changed_card(tmp_path, 'ct = "Planning CT"', 'ct = """two\nlines | and <b>tags</b>"""')
    export_bundle(run, store, METRICS, card, "tiny", "Tiny", "1.0", tmp_path / "bundle", metrics_cohort="5-fold | own")
    lines = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines()
    previous = None
    for line in lines:
        columns = line.replace("\\|", "").count("|") if line.startswith("|") else None
        assert previous is None or columns is None or columns == previous
        previous = columns
    text = "\n".join(lines)
    assert "Lung cancer \\| NSCLC" in text and "<b>" not in text
    assert "| Integrated Brier score | 5-fold \\| own |  | 0.200 | not given |" in text


def test_months():
    assert months_text(547.875) == "18 months" and months_text(100) == "3.3 months"


# --- Other formats ----------------------------------------------------------------------------------------------------


def plain_hazards(images):
    """The plain PyTorch network's, the reference of every format."""
    torch = pytest.importorskip("torch")
    from CNNSurvivalLib.network import network_from_weights, network_input

    with torch.inference_mode():
        return network_from_weights(random_weights())(network_input(images)).sigmoid().numpy()


def read_onnx(path, images):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    return session.run(None, {"slices": images[:, np.newaxis].astype(np.float32)})[0], facts


def read_torchscript(path, images):
    torch = pytest.importorskip("torch")
    extra = {"info.json": ""}
    network = torch.jit.load(str(path), _extra_files=extra)
    with torch.inference_mode():
        hazards = network(torch.from_numpy(images[:, np.newaxis].astype(np.float32))).numpy()
    return hazards, json.loads(extra["info.json"])


def read_safetensors(path, images):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(path, framework="numpy") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        return NumpyEngine(weights).hazards(images), json.loads(file.metadata()["info"])


READERS = {"onnx": read_onnx, "torchscript": read_torchscript, "safetensors": read_safetensors}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("file_format", formats.FILE_NAMES)
def test_other_formats_give_the_same_hazards_and_say_how_to_use_them(study, command, tmp_path, file_format):
    for package in formats.PACKAGES[file_format]:
        pytest.importorskip(package)
    code, out, err = command("run", "--format", file_format, "--output", tmp_path)
    assert code == 0, err
    path = tmp_path / formats.FILE_NAMES[file_format]
    assert path.name in out and [p.name for p in tmp_path.iterdir()] == [path.name]
    images = made_images(3)
    for chosen in (images, images[:1]):
        hazards, facts = READERS[file_format](path, chosen)
        assert hazards.shape == (len(chosen), 19)
        assert np.abs(hazards - plain_hazards(chosen)).max() < 1e-5
    assert json.loads(facts["edges_days"]) == exponential_edges().tolist()
    assert json.loads(facts["preprocessing"])["hu_window"] == [-160.0, 240.0]
    assert facts["intended_use"].startswith("Research use only")
    check_it_names_nobody(path)


def check_it_names_nobody(path):
    """No part of the file holds a patient's id, or where on this machine anything is."""
    parts = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = [archive.read(name) for name in archive.namelist()]
    repository = str(Path(formats.__file__).resolve().parents[2]).encode()
    for part in parts:
        assert not any(word in part for word in (repository, b"network.py", b"formats.py", b"site-packages", b"m000"))


def test_a_bundle_is_exported_with_its_name_and_licence(tiny_bundle, tmp_path):
    pytest.importorskip("safetensors")
    exported = formats.export_network(load_network(tiny_bundle.folder), "safetensors", tmp_path)
    _, facts = read_safetensors(exported.path, made_images(1))
    assert facts["model"] == "random-1.0" and facts["licence"] == "none" and exported.difference < 1e-6
    assert facts["weights_sha256"] == tiny_bundle.sha256


def test_a_file_that_differs_is_not_written(tiny_bundle, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    to_bytes, read_back = formats._WRITERS["safetensors"]

    def wrong(weights, facts):
        return to_bytes({**weights, "output.bias": weights["output.bias"] + np.float32(0.001)}, facts)

    monkeypatch.setitem(formats._WRITERS, "safetensors", (wrong, read_back))
    with pytest.raises(CNNSurvivalError, match="was not written: its hazards differ"):
        formats.export_network(load_network(tiny_bundle.folder), "safetensors", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(formats.PACKAGES, "onnx", ("no_such_package",))
    with pytest.raises(CNNSurvivalError, match="needs the package no_such_package"):
        formats.export_network(load_network(tiny_bundle.folder), "onnx", tmp_path)


@pytest.mark.parametrize(
    "low, high, deaths, said", [(-0.1, 0.2, 7, True), (-1.5, 0.2, 90, True), (-0.1, 0.2, 90, False)]
)
def test_the_card_says_that_so_few_patients_cannot_carry_an_ipa(tmp_path, low, high, deaths, said):
    info = bundle_info(random_weights())
    info["cohorts"] = [{**info["cohorts"][0], "name": "test", "events": deaths}]
    info["metrics"] = [{"name": "ipa", "cohort": "test", "horizon_days": 547.875, "value": 0.1, "ci_low": low,
                        "ci_high": high}]  # fmt: skip
    text = model_card(save_bundle(tmp_path / "bundle", info, random_weights()).info)
    assert ("So few patients cannot carry an IPA" in text) is said
