"""The rules of the architecture: what each folder may import, no import cycles, no import of a higher layer."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = REPOSITORY / "CNNSurvival" / "CNNSurvivalLib"
COMMANDS = REPOSITORY / "training_cli"
# docs/imports.py by its path: the folder on sys.path would make its conf.py importable, too.
_SPEC = importlib.util.spec_from_file_location("drawing", REPOSITORY / "docs" / "imports.py")
drawing = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(drawing)

# What the files of a folder of the library may import besides the standard library, and which folders of it they may
# take from. "" is the library's own folder, from slices to prediction.
LIBRARY_RULES = {
    "": ({"numpy", "scipy", "torch"}, set()),
    "io": ({"numpy", "scipy", "SimpleITK", "pydicom", "highdicom"}, {""}),
    "report": ({"numpy"}, {""}),
    "report.dicom": ({"numpy", "pydicom", "highdicom", "SimpleITK"}, {"", "io", "report"}),
    "mrml": ({"numpy", "scipy", "slicer", "vtk"}, {"", "io", "report", "report.dicom"}),
    "widgets": (
        {"qt", "ctk", "slicer", "vtk", "PyTorchUtils", "SampleData"},
        {"", "io", "report", "report.dicom", "mrml"},
    ),
}
# These two modules join the folders: they choose where cases come from.
JOINING = {"batch": {"", "io", "mrml", "report"}, "headless": {"", "io", "mrml"}}

# The layers of training_cli, the lowest first: a folder may import its own files and those of lower layers.
LAYERS = (
    ("options", "progress", "toml_file", "workers"),
    ("cohort", "figures"),
    ("training",),
    ("evaluation",),
    ("models",),
    ("study",),
    ("predict", "demo"),
    ("commands",),
    ("cli", "__main__"),
)


def module_name(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root):
    return {module_name(path, root): path for path in sorted(root.rglob("*.py"))}


def imports(path, root, known, package):
    """(modules of the package, other top-level names) that a file imports, at its top and inside functions."""
    inside, outside = set(), set()
    here = module_name(path, root).split(".") if path.name == "__init__.py" else module_name(path, root).split(".")[:-1]
    here = [part for part in here if part]
    for node in drawing.executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = here[: len(here) - node.level + 1]
            elif node.module.split(".")[0] == package:
                base = []
            else:
                outside.add(node.module.split(".")[0])
                continue
            module = (node.module or "").split(".") if node.level else node.module.split(".")[1:]
            name = ".".join([*base, *[part for part in module if part]])
            for alias in node.names:
                longer = f"{name}.{alias.name}".strip(".")
                inside.add(longer if longer in known else name)
    return inside, outside


def graph(root, package):
    known = modules(root)
    return {name: imports(path, root, known, package) for name, path in known.items()}


def folder_of(name):
    """The folder of the library that a module lies in; "" for the library's own."""
    parts = name.split(".") if name else []
    folders = parts if (LIBRARY / "/".join(parts)).is_dir() else parts[:-1]
    return ".".join(folders)


LIBRARY_GRAPH = graph(LIBRARY, "CNNSurvivalLib")
COMMANDS_GRAPH = graph(COMMANDS, "training_cli")


@pytest.mark.parametrize("name", sorted(LIBRARY_GRAPH), ids=lambda name: name or "__init__")
def test_a_file_of_the_library_imports_what_its_folder_may(name):
    inside, outside = LIBRARY_GRAPH[name]
    packages, folders = LIBRARY_RULES[folder_of(name)]
    folders = JOINING.get(name, folders)
    if name in JOINING:
        packages = packages | {"slicer", "CNNSurvivalLib"}
    assert outside - set(sys.stdlib_module_names) <= packages
    for other in inside:
        assert folder_of(other) in folders | {folder_of(name)}, f"{name} takes from {other}"


@pytest.mark.parametrize("name", sorted(LIBRARY_GRAPH), ids=lambda name: name or "__init__")
def test_at_file_scope_the_library_imports_only_numpy_and_scipy(name):
    """Outside widgets: what is slow, or not everywhere, is imported inside the function that uses it."""
    if folder_of(name) == "widgets":
        return
    tree = ast.parse(modules(LIBRARY)[name].read_text(encoding="utf-8"))
    inside_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in inside_functions:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    assert names <= {"numpy", "scipy", *sys.stdlib_module_names}


def layer(name):
    for number, folders in enumerate(LAYERS):
        if any(name == each or name.startswith(each + ".") for each in folders):
            return number
    raise AssertionError(f"training_cli/{name} lies in no layer; add its folder to LAYERS")


def is_command(name):
    """commands/*_options.py hold options that several commands share; they are no commands."""
    return name.startswith("commands.") and not name.endswith("_options")


@pytest.mark.parametrize("name", sorted(set(COMMANDS_GRAPH) - {""}))
def test_no_file_imports_from_a_higher_layer(name):
    for other in COMMANDS_GRAPH[name][0] - {""}:
        assert layer(other) <= layer(name), f"{name} takes from {other}, which lies above it"
        if name.startswith("commands."):
            assert not is_command(other), f"{name} takes from {other}: a command imports no other"


@pytest.mark.parametrize("imported", [LIBRARY_GRAPH, COMMANDS_GRAPH], ids=["CNNSurvivalLib", "training_cli"])
def test_there_are_no_import_cycles(imported):
    """Counting imports inside functions, too."""
    done = set()

    def visit(name, way):
        assert name not in way, "a cycle: " + " -> ".join([*way[way.index(name) :], name])
        if name in done or name not in imported:
            return
        for other in sorted(imported[name][0] - {name}):
            visit(other, [*way, name])
        done.add(name)

    for name in imported:
        visit(name, [])


def test_what_only_type_checkers_read_is_no_import_and_what_stands_instead_is():
    code = "if TYPE_CHECKING:\n    import typed\nelse:\n    import run\nif other:\n    import too"
    nodes = drawing.executed(ast.parse(code))
    assert {node.names[0].name for node in nodes if isinstance(node, ast.Import)} == {"run", "too"}


def test_the_picture_of_imports_is_that_of_the_code():
    assert drawing.PICTURE.read_text(encoding="utf-8") == drawing.draw(), "run: python docs/imports.py"
