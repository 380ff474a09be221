"""The public interface: what can be imported from CNNSurvivalLib itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import CNNSurvivalLib
from CNNSurvivalLib import find_model, find_models, load_model
from CNNSurvivalLib.bundle import default_bundle_folder, shipped_models_folder
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = Path(CNNSurvivalLib.__file__).parent


def in_a_new_process(code):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", CNNSurvivalLib.__all__)
def test_each_public_name_resolves_and_has_a_docstring(name):
    value = getattr(CNNSurvivalLib, name)
    assert name == "__version__" or (value.__doc__ and value.__module__.startswith("CNNSurvivalLib."))
    assert name in dir(CNNSurvivalLib)


def test_importing_the_package_loads_nothing():
    heavy = ("numpy", "scipy", "SimpleITK", "pydicom", "torch", "highdicom")
    code = f"import CNNSurvivalLib\nprint([n for n in sys.modules if n in {heavy} or n.startswith('CNNSurvivalLib.')])"
    assert in_a_new_process(code) == "[]"


def test_a_star_import_gives_the_public_names():
    code = "names = {}\nexec('from CNNSurvivalLib import *', names)\nprint(sorted(set(names) - {'__builtins__'}))"
    assert ast.literal_eval(in_a_new_process(code)) == sorted(CNNSurvivalLib.__all__)


def test_names_that_do_not_exist_are_attribute_errors():
    with pytest.raises(AttributeError, match="'CNNSurvivalLib' has no attribute 'no_such_name'"):
        CNNSurvivalLib.no_such_name  # noqa: B018
    with pytest.raises(ImportError):
        from CNNSurvivalLib import no_such_name  # noqa: F401


def test_type_checkers_see_the_same_names():
    """``__all__``, the table of modules and the imports under TYPE_CHECKING list the same names."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    assert imported == CNNSurvivalLib._MODULES
    assert sorted({*imported, "__version__"}) == sorted(CNNSurvivalLib.__all__)


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").read_text(encoding="utf-8") == ""


def test_readmes_example_uses_public_names_only():
    """README's example in Python imports from the package alone, once."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    (imported,) = [node for node in ast.parse(example).body if isinstance(node, ast.ImportFrom)]
    assert imported.module == "CNNSurvivalLib"
    assert {alias.name for alias in imported.names} <= set(CNNSurvivalLib.__all__)


def test_a_model_is_found_by_folder_id_or_not_named_at_all(tiny_bundle):
    default = default_bundle_folder()
    assert find_model() == find_model(default) == find_model(str(default)) == default
    balanced = shipped_models_folder() / "lung-head-neck"
    assert find_model("lung-head-neck") == find_model(load_model(balanced).id) == balanced
    assert load_model(tiny_bundle.folder).id == tiny_bundle.id
    assert load_model().folder == default


def test_a_model_that_is_not_there_is_refused_with_the_ids_that_are(tmp_path):
    with pytest.raises(UsageError, match="no model 'absent'.*lung-head-neck, nsclc-zhang2020"):
        load_model("absent")
    with pytest.raises(CNNSurvivalError, match="not a model folder"):
        load_model(tmp_path)


def test_models_of_other_folders_come_after_those_that_ship(tiny_bundle):
    found = find_models([tiny_bundle.folder])
    assert len(found) == len(find_models()) + 1
    folder, bundle, problem = found[-1]
    assert folder == tiny_bundle.folder and bundle.id == tiny_bundle.id and problem is None
