"""README's way to a model for one's own patients, its commands taken from README, on 50 made-up patients."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from CNNSurvivalLib import load_model
from cohort_maker import make_images
from training_cli.cli import main

pytest.importorskip("torch")
pytest.importorskip("lightning")
concordance_index_censored = pytest.importorskip("sksurv.metrics").concordance_index_censored

README = Path(__file__).resolve().parents[1] / "README.md"
PARENT = "lung-head-neck"


def readme_commands(heading: str) -> list[list[str]]:
    """The commands of the first block of code below a heading, each as the words behind 'cnn-survival'."""
    text = README.read_text(encoding="utf-8").split(f"\n### {heading}\n", 1)[1]
    lines = re.search(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL).group(1).splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    assert all(command[0] == "cnn-survival" for command in commands)
    return [command[1:] for command in commands]


def table(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_stranger_makes_a_model_of_50_patients_as_readme_says(tmp_path, monkeypatch, capsys):
    make_images(tmp_path, 50)
    monkeypatch.chdir(tmp_path)
    prepare, finetune, export, again, predict = readme_commands("A model for your own patients")
    assert [words[0] for words in (prepare, finetune, export, predict)] == ["prepare", "finetune", "export", "predict"]
    assert export == again

    assert main(prepare) == 3  # the last of the patients has a tumour that is too small
    assert "1 patient is not in it" in capsys.readouterr().out
    assert main(finetune) == 0
    assert "<- chosen" in capsys.readouterr().out

    # Everything that is missing is asked for at once.
    assert main(export) == 2
    said = capsys.readouterr().err
    card = Path("bundle-card.toml")
    written = card.read_text(encoding="utf-8")
    empty = re.findall(r'^(\w+) = ""$', written, re.MULTILINE)
    assert "'bundle-card.toml' was written" in said and all(f"'{name}'" in said for name in empty)
    assert len(empty) == 11 and not Path("bundle").exists()
    assert main(export) == 2  # not completed: told again, and the file stays
    said = capsys.readouterr().err
    assert "The card 'bundle-card.toml' lacks" in said and all(f"'{name}'" in said for name in empty)
    assert card.read_text(encoding="utf-8") == written

    numbers = iter(range(100))
    filled = re.sub(r'= ""$', lambda _: f'= "My text {next(numbers)}"', written, flags=re.MULTILINE)
    card.write_text(filled, encoding="utf-8")
    assert main(again) == 0
    assert card.read_text(encoding="utf-8") == filled

    parent, bundle = load_model(PARENT), load_model("bundle")
    patients = table(Path("manifest.csv"))[:-1]
    deaths = sum(row["event"] == "1" for row in patients)
    before, own = bundle.info["cohorts"]
    for key in ("name", "sites", "dates", "source", "licence", "patients", "events", "slices"):
        assert before[key] == parent.info["cohorts"][0][key]
    assert (own["patients"], own["events"], own["name"]) == (49, deaths, "My text 6")
    assert bundle.info["card"]["licence"] == parent.info["card"]["licence"]
    assert bundle.info["card"]["non_commercial"] is True
    assert bundle.info["card"]["disease"] == "My text 0"
    assert bundle.preprocessing == parent.preprocessing
    assert bundle.info["training"]["parent"]["bundle_id"] == parent.id
    assert "My text 0" in bundle.card_text and "NSCLC-Radiomics" in bundle.card_text

    assert main(predict) == 3
    rows = table(Path("results/predictions.csv"))
    assert [row["patient_id"] for row in rows] == [row["patient_id"] for row in patients]
    assert [row["patient_id"] for row in table(Path("results/failures.csv"))] == ["s049"]
    # It fits these patients better than the model that it came from, and ranks them as their sizes do.
    ways = {row["learn"]: row for row in table(Path("tuned/comparison.csv"))}
    chosen = next(row for row in ways.values() if row["chosen"] == "1")
    assert float(chosen["loss"]) < float(ways["none"]["loss"])
    died = np.array([row["event"] == "1" for row in patients])
    days = np.array([float(row["time_days"]) for row in patients])
    risks = np.array([float(row["risk_18m"]) for row in rows])
    assert concordance_index_censored(died, days, risks)[0] > 0.7
