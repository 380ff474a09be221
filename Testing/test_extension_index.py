"""What Slicer's index of extensions asks of an extension, as its own scripts and its checklist of July 2026 say.

https://github.com/Slicer/ExtensionsIndex: scripts/check_description_files.py, .github/PULL_REQUEST_TEMPLATE.md.
"""

import json
import re
import struct
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "CNNSurvival"
URL = "https://github.com/CNNSurvival/SlicerCNNSurvival"
RAW = "https://raw.githubusercontent.com/CNNSurvival/SlicerCNNSurvival/main/"
SCHEMA_URL = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#"
)
# Of slicer-extension-catalog-entry-schema-v1.0.2.json, which allows no other properties: name -> type; * is required
SCHEMA = {
    "$schema*": str, "category*": str, "scm_url*": str, "scm_revision": str, "scm_type": str,
    "build_dependencies": list, "dicom_support_rule": str, "build_subdirectory": str, "enabled": bool, "tier": int,
}  # fmt: skip


@pytest.fixture(scope="module")
def description():
    return json.loads((REPOSITORY / f"{NAME}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cmake():
    """EXTENSION_... of the top CMakeLists.txt, found with the patterns of the index's script."""
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    values = dict(re.findall(r'set\s*\((EXTENSION_\w+)\s*"([^"]+)"[ ]*\)', text))
    return {**values, "project": re.findall(r"project\s*\(\s*([^\s\)\n\r]+)", text)[0]}


@pytest.fixture(scope="module")
def readme():
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_description_fits_the_schema(description):
    types = {name.rstrip("*"): kind for name, kind in SCHEMA.items()}
    assert {name[:-1] for name in SCHEMA if name.endswith("*")} <= set(description) <= set(types)
    assert all(type(value) is types[name] for name, value in description.items())
    assert description["$schema"] == SCHEMA_URL
    assert 1 <= description["tier"] <= 5
    assert all(isinstance(name, str) for name in description["build_dependencies"])


def test_the_description_is_formatted_as_the_index_does(description):
    """Prettier's format: two spaces, lines that end in LF, one at the end; and the keys in order."""
    content = (REPOSITORY / f"{NAME}.json").read_bytes()
    assert content == (json.dumps(description, indent=2) + "\n").encode()
    assert list(description) == sorted(description)


def test_the_description_agrees_with_the_extension(description, cmake):
    assert cmake["project"] == NAME
    assert description["category"] == cmake["EXTENSION_CATEGORY"] == "Quantification"
    assert description["scm_url"] == cmake["EXTENSION_HOMEPAGE"] == URL
    assert URL.split("/")[-1] == f"Slicer{NAME}"
    assert description["build_dependencies"] == [] and cmake["EXTENSION_DEPENDS"] == "NA"
    module = (REPOSITORY / NAME / f"{NAME}.py").read_text(encoding="utf-8")
    assert f'translate("qSlicerAbstractCoreModule", "{description["category"]}")' in module


def test_icon_and_screenshots_are_pictures_of_this_repository(cmake):
    urls = [cmake["EXTENSION_ICONURL"], *cmake["EXTENSION_SCREENSHOTURLS"].split()]
    assert len(urls) >= 2
    for url in urls:
        assert url.startswith(RAW) and url.endswith(".png"), url
        content = (REPOSITORY / url[len(RAW) :]).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", content[16:24])) >= 128


def test_the_description_of_the_extension_names_licences_and_patents(cmake):
    text = cmake["EXTENSION_DESCRIPTION"]
    for words in ("survival", "Apache-2.0", "CC BY-NC 3.0", "non-commercial research only", "patents"):
        assert words in text
    assert ";" not in text, "CMake would take it for a list"


def test_the_homepage_has_what_the_index_asks_for(readme):
    assert readme.startswith(f"# {NAME}\n")
    top = readme.split("\n## ")[0]
    assert "](Resources/" in top, "a picture"
    for words in ("Apache-2.0", "CC BY-NC 3.0", "non-commercial research only", "patents", "doi.org/10.1186/s12880"):
        assert words in top
    assert "has one module. **CNN Survival**" in readme
    assert (REPOSITORY / "LICENSE.txt").is_file()


def test_the_tutorial_names_its_sample_data_and_shows_it(readme):
    tutorial = readme.split("### Tutorial")[1].split("\n### ")[0]
    module = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / NAME).rglob("*.py"))
    name = re.search(r'sampleName="(\w+)"', module).group(1)
    assert f"*{name}*" in tutorial and "*Sample Data*" in tutorial
    pictures = re.findall(r"\]\((Resources/[\w-]+\.png)\)", tutorial)
    assert len(pictures) >= 3 and all((REPOSITORY / picture).is_file() for picture in pictures)


def test_what_the_tutorial_says_of_the_sample_patient_is_what_is_predicted(readme):
    from CNNSurvivalLib import load_model, predict
    from CNNSurvivalLib.mrml.sample import SPACING_MM, chest_ct
    from CNNSurvivalLib.report.text import sentence
    from CNNSurvivalLib.slices import axial_geometry

    hu, tumour, _lung = chest_ct()
    prediction = predict(hu, tumour, axial_geometry(SPACING_MM), load_model())
    said = re.search(
        r"expects (\d+%) of such patients to be alive at 18 months\s+\(95 % interval (\d+) to (\d+%)\)", readme
    )
    alive, low, high = said.groups()
    assert f"the model expects {alive} (95% interval of this average {low}% to {high})" in sentence(prediction)
    assert f"a tumour of {prediction.volume_cc:.0f} cc" in readme
