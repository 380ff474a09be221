"""What is installed is complete: the wheel, its models, its dependencies, the pinned requirements."""

import ast
import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from CNNSurvivalLib import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = REPOSITORY / "requirements"
# The packages that are imported under another name
DISTRIBUTIONS = {
    "PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "sksurv": "scikit-survival",
    "slicer": "slicer-core", "radiomics": "pyradiomics-bhklab", "distributed": "dask",
}  # fmt: skip
# What others bring along: slicer-core and PyRadiomics do, and idc-index its own tables
BROUGHT_ALONG = {"vtk", "SimpleITK", "idc_index_data"}
# The commands that need no extra
PLAIN_COMMANDS = ("predict", "models", "demo")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="needs hatchling, with which the wheel is built")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """run(*args): Python with the wheel in front of everything else, from a folder that knows no repository."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)

    def run(*args):
        environment = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run(
            [sys.executable, *args], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )

    run.site = site
    return run


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode("utf-8"))


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_names(lines):
    return {normalized(re.match(r"[\w.-]+", line).group()) for line in lines}


def pins(file_name):
    lines = [line.strip() for line in (REQUIREMENTS / file_name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def imports(path, everywhere):
    """Top-level names of what a file imports: at its top, or everywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_the_wheel_holds_code_models_and_licence_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"CNNSurvivalLib", "training_cli", "cnn_survival"}
    for source in ("CNNSurvival/CNNSurvivalLib", "training_cli"):
        expected = {
            f"{Path(source).name}/{path.relative_to(REPOSITORY / source).as_posix()}"
            for path in (REPOSITORY / source).rglob("*.py")
        }
        assert expected <= set(names)
    data = {"training_cli/study/report_template.html", "training_cli/configs/nsclc.toml", "CNNSurvivalLib/py.typed"}
    assert {*data, "training_cli/models/MODEL_CARD.md.j2"} <= set(names)
    models = REPOSITORY / "CNNSurvival" / "Resources" / "Models"
    files = {path.relative_to(models).as_posix() for path in models.rglob("*") if path.is_file()}
    assert "default.txt" in files
    assert {f"CNNSurvivalLib/Models/{name}" for name in files} <= set(names)
    assert any(name.endswith("LICENSE.txt") for name in names)


def test_the_installed_wheel_loads_its_own_default_model(installed):
    code = (
        "import CNNSurvivalLib, training_cli.cli\n"
        "from CNNSurvivalLib.bundle import default_bundle_folder, find_bundles, load_bundle, shipped_models_folder\n"
        "print(CNNSurvivalLib.__file__, training_cli.cli.__file__, load_bundle(default_bundle_folder()).folder)\n"
        "errors = [error for _, _, error in find_bundles([shipped_models_folder()])]\n"
        "assert len(errors) == 3 and not any(errors), errors\n"
    )
    done = installed("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(installed.site)) == 3


def test_the_installed_command_explains_itself(installed):
    script = installed.site / "bin" / "cnn-survival"
    done = installed(str(script), "predict", "--help")
    assert done.returncode == 0, done.stderr
    assert "--image" in done.stdout and "--mask" in done.stdout


def test_the_installed_command_reports_a_usage_error_with_status_2(installed):
    assert installed("-m", "training_cli", "predict").returncode == 2


@pytest.mark.parametrize("folder, everywhere", [("CNNSurvival/CNNSurvivalLib", False), ("training_cli", True)])
def test_what_the_package_imports_is_among_its_dependencies(metadata, folder, everywhere):
    everything = requirement_names(metadata.get_all("Requires-Dist"))
    ours = {"CNNSurvivalLib", "training_cli", *sys.stdlib_module_names, *BROUGHT_ALONG}
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        if path.parent.name == "widgets":  # the panel's parts, which only Slicer imports
            continue
        for name in set(imports(path, everywhere)) - ours:
            assert normalized(DISTRIBUTIONS.get(name, name)) in everything, f"{path.name} imports {name}"


@pytest.mark.parametrize("command", PLAIN_COMMANDS)
def test_prediction_needs_no_extra(installed, metadata, command):
    """`cnn-survival predict --help` and the like import nothing that only training needs."""
    lines = metadata.get_all("Requires-Dist")
    core = requirement_names(line for line in lines if "extra ==" not in line)
    extras = requirement_names(lines) - core
    modules = {name.replace("-", "_") for name in extras}
    modules |= {name for name, package in DISTRIBUTIONS.items() if package in extras}
    code = f"""
import contextlib, sys
if {command!r} == "demo":
    import training_cli.demo.run
else:
    from training_cli.cli import main
    with contextlib.suppress(SystemExit):
        main([{command!r}, "--help"])
found = sorted(set(sys.modules) & set({sorted(modules)!r}))
assert not found, found
"""
    done = installed("-c", code)
    assert done.returncode == 0, done.stderr


def test_each_extra_exists(metadata):
    expected = {"train", "radiomics", "download", "cluster", "export", "slicer", "test"}
    assert set(metadata.get_all("Provides-Extra")) == expected


@pytest.mark.parametrize("file_name", ["demo.txt", "test.txt"])
def test_requirements_are_pinned(file_name):
    for line in pins(file_name):
        assert re.fullmatch(r'[\w.-]+==[\w.+]+( ; python_version [<>=]+ "3\.\d+")?', line), line


def test_requirements_cover_what_is_declared(metadata):
    lines = metadata.get_all("Requires-Dist")
    core = requirement_names(line for line in lines if "extra ==" not in line)
    demo = requirement_names(pins("demo.txt"))
    assert core | {"slicer-core", "vtk"} <= demo
    assert "torch" not in demo
    assert "torch==2.13.0" in pins("test.txt")
    assert {"pytest", "hypothesis", "ruff"} <= requirement_names(pins("test.txt"))


def test_one_version_everywhere(metadata):
    assert metadata["Version"] == __version__
    assert f"\nversion: {__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")


def test_slicers_python_can_read_the_library():
    """Slicer 5.6 has Python 3.9: what it cannot parse, it cannot load."""
    for path in (REPOSITORY / "CNNSurvival").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_make_says_what_it_can_do():
    done = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "lint", "clean"):
        assert f"make {target}" in done.stdout
