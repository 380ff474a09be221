"""Draws docs/imports.svg: which folder imports which, read from the code. A test fails where the picture is old.

    python docs/imports.py

An arrow points to what is imported. Arrows that follow from others are left out: where a imports b and b imports c,
none is drawn from a to c. All arrows point down; ``Testing/test_architecture.py`` asserts it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURE = REPOSITORY / "docs" / "imports.svg"
LIBRARY = REPOSITORY / "CNNSurvival" / "CNNSurvivalLib"
PACKAGES = {"training_cli": REPOSITORY / "training_cli", "CNNSurvivalLib": LIBRARY}
# Files beside the folders that are no folder's: each is drawn by itself. Others of the library are its core.
ALONE = {"training_cli": None, "CNNSurvivalLib": {"batch", "headless"}}
ABOUT = {
    "CNNSurvivalLib": "core: slices, network, engines, hazards, bundle, prediction, ...",
    "CNNSurvivalLib/io": "io: images, DICOM, masks, manifests",
    "CNNSurvivalLib/mrml": "mrml: Slicer's scene",
    "CNNSurvivalLib/report": "report: page, PDF, tables, DICOM",
    "CNNSurvivalLib/widgets": "widgets: parts of the panel",
    "CNNSurvivalLib/batch": "batch",
    "CNNSurvivalLib/headless": "headless",
    "CNNSurvival": "CNNSurvival.py: the Slicer module",
}
WIDTH, ROW, BOX = 1000, 64, 30


def place(package: str, parts: list[str]) -> str:
    """The box that a module lies in: its folder, or itself where it stands alone."""
    if len(parts) > 1 or (parts and (PACKAGES[package] / parts[0]).is_dir()):
        return f"{package}/{parts[0]}"
    alone = ALONE[package]
    return f"{package}/{parts[0]}" if parts and (alone is None or parts[0] in alone) else package


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a file without what only type checkers read (``if TYPE_CHECKING:``)."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def imported(path: Path, package: str, inside: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(package, module as parts) of each import of the project's own modules in a file below the folder ``inside``."""
    for node in executed(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        name = (node.module or "").split(".") if node.module else []
        if node.level:
            parts = [*inside[: len(inside) - node.level + 1], *name]
            owner = package
        elif name[0] in PACKAGES:
            owner, parts = name[0], name[1:]
        else:
            continue
        for alias in node.names:
            folder = PACKAGES[owner].joinpath(*parts)
            longer = (folder / f"{alias.name}.py").exists() or (folder / alias.name).is_dir()
            yield owner, [*parts, alias.name] if longer else parts


def edges() -> set[tuple[str, str]]:
    """(importing box, imported box), without arrows from a box to itself."""
    found = set()
    for package, root in PACKAGES.items():
        for path in root.rglob("*.py"):
            inside = list(path.relative_to(root).parent.parts)
            parts = [*inside, *([] if path.stem == "__init__" else [path.stem])]
            here = place(package, parts)
            found |= {(here, place(*other)) for other in imported(path, package, inside)}
    module = REPOSITORY / "CNNSurvival" / "CNNSurvival.py"
    found |= {("CNNSurvival", place(*other)) for other in imported(module, "CNNSurvivalLib", [])}
    return {(a, b) for a, b in found if a != b and "training_cli" not in (a, b)}


def reachable(start: str, below: dict[str, set[str]]) -> set[str]:
    """Everything that is imported, directly or not."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for other in below.get(waiting.pop(), set()) - found:
            found.add(other)
            waiting.append(other)
    return found


def layout(below: dict[str, set[str]]) -> list[list[str]]:
    """Rows of boxes from the top: each below all that import it."""
    boxes = set(below) | {box for others in below.values() for box in others}

    def height(box: str) -> int:
        return 1 + max((height(other) for other in below.get(box, ())), default=-1)

    heights = {box: height(box) for box in boxes}
    return [sorted(box for box in boxes if heights[box] == level) for level in range(max(heights.values()), -1, -1)]


def draw() -> str:
    """The picture as SVG."""
    below: dict[str, set[str]] = {}
    for a, b in edges():
        below.setdefault(a, set()).add(b)
    direct = {a: {b for b in others if not any(b in reachable(c, below) for c in others - {b})}
              for a, others in below.items()}  # fmt: skip
    rows = layout(below)
    middle = {}
    parts = []
    for number, row in enumerate(rows):
        for column, box in enumerate(row):
            label = ABOUT.get(box, box.split("/", 1)[-1])
            width = 8 * len(label) + 24
            x, y = WIDTH * (column + 1) / (len(row) + 1), 20 + number * ROW
            middle[box] = (x, y)
            colour = "#dfeaf7" if box.startswith("CNNSurvival") else "#f3ead8"
            parts.append(f'<rect x="{x - width / 2:.0f}" y="{y}" width="{width}" height="{BOX}" rx="5" fill="{colour}" '
                         'stroke="#555"/>')  # fmt: skip
            parts.append(f'<text x="{x:.0f}" y="{y + 20}" text-anchor="middle">{label}</text>')
    lines = []
    for a, others in sorted(direct.items()):
        for b in sorted(others):
            (x1, y1), (x2, y2) = middle[a], middle[b]
            y1 += BOX
            lines.append(f'<path d="M{x1:.0f} {y1} C{x1:.0f} {y1 + 30} {x2:.0f} {y2 - 34} {x2:.0f} {y2 - 5}" '
                         'fill="none" stroke="#555" marker-end="url(#tip)"/>')  # fmt: skip
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(rows) * ROW + 10}" '
        'font-family="sans-serif" font-size="14">\n'
        '<marker id="tip" markerWidth="9" markerHeight="7" refX="6" refY="3.5" orient="auto">'
        '<path d="M0 0 L9 3.5 L0 7 z" fill="#555"/></marker>\n'
        f'<rect width="{WIDTH}" height="{len(rows) * ROW + 10}" fill="white"/>\n'
    )
    return head + "\n".join([*lines, *parts]) + "\n</svg>\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(f"{PICTURE} is drawn.")
