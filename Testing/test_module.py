"""What can be known of the Slicer module without Slicer."""

import ast
import re
import struct
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MODULE = REPOSITORY / "CNNSurvival"
SOURCES = sorted(MODULE.rglob("*.py"))
UI = MODULE / "Resources" / "UI" / "CNNSurvival.ui"
WITHOUT_CODE = ("QLabel", "QFrame", "QWidget", "qMRMLWidget")  # what needs no connection
PAGES = ("slicesTab", "explainTab", "compareTab", "exportTab", "batchTab", "modelTab")  # one is shown at a time
WINDOW = sorted((MODULE / "CNNSurvivalLib" / "widgets").glob("*.py"))
SLICER_ONLY = {
    path.name: {"qt", "ctk", "vtk", "slicer", "CNNSurvivalLib"} for path in (MODULE / "CNNSurvival.py", *WINDOW)
}
del SLICER_ONLY["__init__.py"]
SLICER_ONLY["self_test.py"] = {"CNNSurvivalLib"}
SLICER_ONLY["CNNSurvivalSubjectHierarchyPlugin.py"] = {"qt", "slicer", "SubjectHierarchyPlugins"}


@pytest.fixture(scope="module")
def ui():
    return ElementTree.parse(UI).getroot()


def widgets(ui):
    return {element.get("name"): element for element in ui.iter("widget")}


def prop(element, name):
    """The text of a property of a widget, None where it has none."""
    for each in element.findall("property"):
        if each.get("name") == name:
            return "".join(each.itertext()).strip()
    return None


def code():
    return (MODULE / "CNNSurvival.py").read_text(encoding="utf-8")


def panel():
    """The code of the panel and of its parts."""
    return "\n".join([code(), *(path.read_text(encoding="utf-8") for path in WINDOW)])


# --- The panel ------------------------------------------------------------------------------------------------


def test_every_widget_that_the_code_uses_is_in_the_ui(ui):
    tests = (MODULE / "Testing" / "self_test.py").read_text(encoding="utf-8")
    used = set(re.findall(r"\bui\.(\w+)", panel() + tests))
    assert len(used) > 8
    assert used <= set(widgets(ui))


def test_every_control_of_the_ui_does_something(ui):
    used = set(re.findall(r"\bui\.(\w+)", panel()))
    idle = [
        name
        for name, element in widgets(ui).items()
        if element.get("class") not in (*WITHOUT_CODE, "ctkCollapsibleButton")
        and name not in used
        and prop(element, "SlicerParameterName") is None
    ]
    assert idle == []


def test_bound_parameters_exist(ui):
    tree = ast.parse(code())
    (node,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "CNNSurvivalParameterNode"]
    parameters = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
    bound = {prop(e, "SlicerParameterName") for e in widgets(ui).values()} - {None}
    assert bound and bound <= parameters
    assert {name for name in parameters if f".{name}" not in code()} <= bound


def test_names_are_unique_and_classes_declared(ui):
    names = [element.get("name") for element in ui.iter("widget")]
    assert len(names) == len(set(names))
    declared = {element.findtext("class") for element in ui.iter("customwidget")}
    custom = {e.get("class") for e in ui.iter("widget") if re.match("q[SM]|ctk", e.get("class"))}
    assert custom == declared


def test_scene_reaches_every_selector(ui):
    connected = {c.findtext("receiver") for c in ui.iter("connection") if "mrmlSceneChanged" in c.findtext("signal")}
    selectors = {
        name
        for name, element in widgets(ui).items()
        if element.get("class") in ("qMRMLNodeComboBox", "qMRMLSegmentSelectorWidget")
    }
    assert connected == selectors


def test_keyboard_and_tooltips(ui):
    every = widgets(ui)
    stops = [element.text for element in ui.iter("tabstop")]
    controls = [n for n, e in every.items() if e.get("class") not in (*WITHOUT_CODE, "ctkCollapsibleButton")]
    for name in controls:
        set_in_code = f"self.ui.{name}.toolTip" in panel()
        assert prop(every[name], "toolTip") or set_in_code, f"{name} has no tooltip"
        assert name in stops or every[name].get("class") == "QProgressBar", f"{name} is not in the tab order"
    assert set(stops) <= set(every)
    for element in every.values():
        if element.get("class") == "QLabel" and "&" in (prop(element, "text") or ""):
            assert prop(element, "buddy") in every


def mnemonics(texts):
    return [match.group(1).lower() for text in texts for match in re.finditer(r"&(\w)", text or "")]


def test_no_two_controls_that_are_shown_together_share_a_mnemonic(ui):
    every = widgets(ui)
    pages = {name: [prop(e, "text") for e in every[name].iter("widget")] for name in PAGES}
    inside = {e.get("name") for name in PAGES for e in every[name].iter("widget")}
    tabs = re.findall(r'_\("(.*?)"\)', (MODULE / "CNNSurvivalLib/widgets/tabs.py").read_text().split("tips =")[0])
    always = mnemonics([*tabs, *(prop(e, "text") for name, e in every.items() if name not in inside)])
    assert len(tabs) == len(PAGES) and len(mnemonics(tabs)) == len(PAGES)
    for texts in pages.values():
        letters = always + mnemonics(texts)
        assert len(letters) == len(set(letters)) >= 6, sorted(letters)


def test_the_answer_comes_before_what_is_behind_it(ui):
    names = list(widgets(ui))
    page = ["inputsCollapsibleButton", "patientCollapsibleButton", "predictButton", "sentenceLabel", "curveFrame",
            "summaryTable", "warningsLabel", *PAGES]  # fmt: skip
    assert [names.index(name) for name in page] == sorted(names.index(name) for name in page)


def test_nothing_scrolls_inside_the_panel(ui):
    for name in ("summaryTable", "slicesTable"):
        table = widgets(ui)[name]
        assert prop(table, "minimumSize") is None and "fitHeight(table)" in panel()
        assert prop(table, "horizontalScrollBarPolicy") == "Qt::ScrollBarAlwaysOff"


def test_rows_that_the_code_makes_have_tooltips_and_are_in_the_tab_order():
    text = (MODULE / "CNNSurvivalLib" / "widgets" / "patient_box.py").read_text(encoding="utf-8")
    made = len(re.findall(r"edit = qt\.Q(?:ComboBox|LineEdit)\(\)", text))
    assert made == len(re.findall(r"edit\.toolTip = _\(", text)) == 2
    assert "setTabOrder(before, edit)" in text and "label.setBuddy(edit)" in text


def test_research_use_is_always_visible(ui):
    notice = widgets(ui)["noticeLabel"]
    assert prop(notice, "text") == "Research use only - not for clinical decisions."
    assert prop(notice, "visible") is None and "noticeLabel" not in panel()


def test_messages_cannot_be_taken_for_html(ui):
    """Names of nodes and files end up in these labels."""
    for name in ("statusLabel", "sentenceLabel", "warningsLabel", "modelProblemLabel", "modelInfoLabel", "staleLabel",
                 "patientLabel", "factsLabel"):  # fmt: skip
        assert prop(widgets(ui)[name], "textFormat") == "Qt::PlainText"


def test_visible_text_is_translatable():
    """Whatever the code sets as text goes through _()."""
    tree = ast.parse(panel())
    raw = [
        f"line {node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Attribute) and t.attr in ("text", "toolTip", "title") for t in node.targets)
        and isinstance(node.value, (ast.Constant, ast.JoinedStr))
        and getattr(node.value, "value", True)
    ]
    assert raw == []


def test_widget_file_stays_small():
    assert len(code().splitlines()) < 600


# --- Source ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_python_39_reads_it(path):
    """Slicer 5.6 has Python 3.9."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    postponed = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Match):
            raise AssertionError(f"match in line {node.lineno}")
        annotations = [getattr(node, "returns", None), getattr(node, "annotation", None)]
        unions = [a for a in annotations if a is not None and isinstance(a, ast.BinOp)]
        assert not unions or postponed, f"X | Y evaluated in line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_imports_at_file_scope(path):
    """What Slicer does not bring, or what is slow, is imported where it is needed."""
    allowed = set(sys.stdlib_module_names) | {"numpy", "scipy"} | SLICER_ONLY.get(path.name, set())
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for part in ast.walk(node) if isinstance(node, (ast.If, ast.Try)) else [node]:
            if isinstance(part, ast.Import):
                names = [alias.name for alias in part.names]
            elif isinstance(part, ast.ImportFrom) and part.level == 0:
                names = [part.module]
            else:
                continue
            assert {name.split(".")[0] for name in names} <= allowed


def test_panel_starts_without_scipy():
    """CNNSurvival.py is loaded when Slicer starts; of the library it may take only what is light."""
    light = {"errors"}
    for path in (MODULE / "CNNSurvival.py", MODULE / "Testing" / "self_test.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {n.module for n in tree.body if isinstance(n, ast.ImportFrom) and n.module}
        assert {m.split(".")[1] for m in imported if m.startswith("CNNSurvivalLib.")} <= light
    for path in (MODULE / "CNNSurvivalLib" / "errors.py", MODULE / "Testing" / "self_test.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        heavy = {alias.name for n in tree.body if isinstance(n, ast.Import) for alias in n.names} - {"logging"}
        assert not heavy


def test_self_test_covers_the_module():
    tree = ast.parse((MODULE / "Testing" / "self_test.py").read_text(encoding="utf-8"))
    names = [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    assert len(names) == len(set(names)) >= 8


# --- What ships -----------------------------------------------------------------------------------------------


def listed(variable):
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8").replace("${MODULE_NAME}", "CNNSurvival")
    block = re.search(rf"set\({variable}\b(.*?)\n\s*\)", text, re.S).group(1)
    return re.findall(r"[\w./-]+\.(?:py|typed|png|ui|txt|json|npz|md)", block)


def test_cmake_lists_every_script():
    assert sorted(listed("MODULE_PYTHON_SCRIPTS")) == [path.relative_to(MODULE).as_posix() for path in SOURCES]


def test_cmake_lists_every_resource():
    resources = [p for p in (MODULE / "Resources").rglob("*") if p.is_file() and p.name[0] != "."]
    resources.append(MODULE / "CNNSurvivalLib" / "py.typed")
    assert sorted(listed("MODULE_PYTHON_RESOURCES")) == sorted(p.relative_to(MODULE).as_posix() for p in resources)


def test_extension_description():
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "project(CNNSurvival)" in text and "add_subdirectory(CNNSurvival)" in text
    values = dict(re.findall(r'set\((EXTENSION_\w+) "(.*?)"\)', text, re.S))
    assert values["EXTENSION_CATEGORY"] == "Quantification" and values["EXTENSION_DEPENDS"] == "NA"
    assert values["EXTENSION_HOMEPAGE"] == "https://github.com/CNNSurvival/SlicerCNNSurvival"
    prefix = "https://raw.githubusercontent.com/CNNSurvival/SlicerCNNSurvival/main/"
    for key in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"):
        for url in values[key].split():
            assert url.startswith(prefix) and (REPOSITORY / url[len(prefix) :]).is_file(), url


@pytest.mark.parametrize("path", ["Resources/CNNSurvival.png", "CNNSurvival/Resources/Icons/CNNSurvival.png"])
def test_icons(path):
    content = (REPOSITORY / path).read_bytes()
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and (width, height) == (128, 128)
    assert depth == 8 and colour == 6, "an icon needs transparency"
