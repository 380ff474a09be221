"""Mutants: small changes to the code, one at a time, that the tests should notice.

    make mutants                                         40 random mutants of each file
    make mutants ARGS='slices --number 100 --seed 7'     more of one file; --number 0 takes all
    make mutants ARGS='slices --show'                    list them, run nothing

A mutant is made from the syntax tree of the file: a comparison, an operator or a constant becomes another, a condition
is negated. Nothing on disk changes: a forked process imports the changed module and runs the file's tests until one
fails. A mutant that no test notices is a survivor: either a test is missing, or the change makes no difference.
The latter are listed with the reason in ``equivalent.py``. The exit code is 1 if there are other survivors.

Needs fork, so Linux or macOS.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import importlib.abc
import importlib.machinery
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "CNNSurvival"), str(REPOSITORY), str(Path(__file__).parent)]

from equivalent import EQUIVALENT  # noqa: E402


class Target(NamedTuple):
    """A file of the code and the tests that should notice its mutants."""

    module: str
    path: str
    tests: tuple[str, ...]


LIBRARY = "CNNSurvival/CNNSurvivalLib"
TARGETS = {
    "hazards": Target("CNNSurvivalLib.hazards", f"{LIBRARY}/hazards.py", ("Testing/test_hazards.py",)),
    "slices": Target("CNNSurvivalLib.slices", f"{LIBRARY}/slices.py", ("Testing/test_slices.py",)),
    "engines": Target("CNNSurvivalLib.engines", f"{LIBRARY}/engines.py", ("Testing/test_network.py",)),
    "bundle": Target("CNNSurvivalLib.bundle", f"{LIBRARY}/bundle.py", ("Testing/test_bundle.py",)),
    "bundle_schema": Target("CNNSurvivalLib.bundle_schema", f"{LIBRARY}/bundle_schema.py", ("Testing/test_bundle.py",)),
    "contours": Target("CNNSurvivalLib.io.contours", f"{LIBRARY}/io/contours.py", ("Testing/test_contours.py",)),
    "metrics": Target(
        "training_cli.evaluation.metrics", "training_cli/evaluation/metrics.py", ("Testing/test_metrics.py",)
    ),
}
# Loaded once, before the forks, because they take most of a test's time. The project's own modules are not.
LIBRARIES = ("numpy", "scipy.ndimage", "scipy.integrate", "pandas", "pydicom", "SimpleITK", "torch", "hypothesis",
             "sksurv.metrics", "lifelines", "PIL.ImageDraw", "pytest")  # fmt: skip
# A mutant hangs if it takes SLOWER times as long as the unchanged code and GRACE_S seconds more.
SLOWER, GRACE_S = 5, 30

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
OPERATORS = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip


class Site(NamedTuple):
    """One possible mutant: where it is, and what it makes of what."""

    number: int
    line: int
    function: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.function}, line {self.line}: {self.before}  ->  {self.after}"


# --- Making mutants ---------------------------------------------------------------------------------------------------


def alternatives(node: ast.AST) -> Iterator[ast.AST]:
    """What one node of the tree becomes in its mutants; all else in it stays."""

    def but(**fields):
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                yield but(ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])
    elif isinstance(node, (ast.BinOp, ast.AugAssign)):
        for other in OPERATORS.get(type(node.op), ()):
            yield but(op=other())
    elif isinstance(node, ast.BoolOp):
        yield but(op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield but(test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.comprehension) and node.ifs:
        yield but(ifs=[ast.UnaryOp(ast.Not(), node.ifs[0]), *node.ifs[1:]])
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield but(value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield but(value=node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield but(value=node.value * 1.5 or 1.0)


class Place(NamedTuple):
    """A node, the list or field of its parent that holds it, and what is around it."""

    node: ast.AST
    parent: ast.AST
    field: str
    index: int | None
    function: str

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def places(node: ast.AST, function: str = "") -> Iterator[Place]:
    """All nodes below a node, in order, but for annotations, which do not run, and parts of messages."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        function = f"{function}.{node.name}".strip(".")
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "format_spec"):
            continue
        many = isinstance(value, list)
        for index, child in enumerate(value if many else [value]):
            if isinstance(child, ast.AST):
                yield Place(child, node, field, index if many else None, function)
                yield from places(child, function)


def code(node: ast.AST) -> str:
    """A node as one line of code; of a statement with a body, its condition."""
    if isinstance(node, (ast.If, ast.While)):
        return f"{type(node).__name__.lower()} {ast.unparse(node.test)}"
    if isinstance(node, ast.comprehension):
        return f"for {ast.unparse(node.target)} if {ast.unparse(node.ifs[0])}" if node.ifs else ""
    return " ".join(ast.unparse(node).split())


def mutants(source: str) -> Iterator[tuple[Site, ast.Module]]:
    """(what is changed, the tree while it is changed) for every mutant of a file."""
    tree = ast.parse(source)
    number = 0
    found = list(places(tree))
    holder = {id(place.node): place.parent for place in found}
    for place in found:
        # A number by itself says little: what is around it is shown.
        shown = place.node
        while isinstance(shown, (ast.Constant, ast.UnaryOp)) and isinstance(holder.get(id(shown)), ast.expr):
            shown = holder[id(shown)]
        before = code(shown) if isinstance(shown, (ast.stmt, ast.expr, ast.comprehension)) else ""
        for new in alternatives(place.node):
            place.put(new)
            after = code(new if shown is place.node else shown)
            line = getattr(place.node, "lineno", getattr(place.parent, "lineno", 0))
            yield Site(number, line, place.function or "(file)", before, after), tree
            place.put(place.node)
            number += 1


def chosen(name: str, source: str, number: int, seed: int) -> list[int]:
    """The numbers of the mutants to try, in order; all of them for number 0."""
    count = sum(1 for _ in mutants(source))
    return sorted(random.Random(f"{name} {seed}").sample(range(count), min(number or count, count)))


# --- Running the tests on one -----------------------------------------------------------------------------------------


class ChangedModule(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Finds and loads one module, from a tree in place of its file."""

    def __init__(self, target: Target, tree: ast.Module):
        super().__init__(target.module, str(REPOSITORY / target.path))
        self._code = compile(ast.fix_missing_locations(tree), target.path, "exec")

    def find_spec(self, fullname, path=None, target=None):
        return importlib.machinery.ModuleSpec(fullname, self, origin=self.path) if fullname == self.name else None

    def exec_module(self, module):
        module.__file__ = self.path
        exec(self._code, module.__dict__)


def start(target: Target, tree: ast.Module) -> int:
    """A process that runs the target's tests on the changed module; its exit code is 0 if they pass. Returns its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 3
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(REPOSITORY)
        sys.meta_path.insert(0, ChangedModule(target, tree))
        import pytest

        with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
            quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
            quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            options = ["-x", *quiet, f"--basetemp={folder}/tests"]
            status = int(pytest.main([*options, *target.tests]))
    except BaseException:
        status = 3  # the changed module cannot even be compiled or imported
    finally:
        os._exit(status)


def finished(processes: dict, limit_s: float) -> list[tuple[Site, str]]:
    """Wait until one or more of {id: (site, start)} end or exceed the limit; remove them; the outcome of each."""
    while True:
        done = []
        for child, (site, began) in list(processes.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended and time.monotonic() - began > limit_s:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                done.append((site, "caught (too slow)"))
            elif ended:
                passed = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
                done.append((site, "survived" if passed else "caught"))
            else:
                continue
            del processes[child]
        if done:
            return done
        time.sleep(0.02)


def unchanged_takes(target: Target, tree: ast.Module) -> float:
    """Seconds for the tests on the unchanged module; ends the program if they fail."""
    began = time.monotonic()
    _, status = os.waitpid(start(target, tree), 0)
    if status:
        raise SystemExit(f"The tests {', '.join(target.tests)} fail without any change; repair them first.")
    return time.monotonic() - began


def try_mutants(name: str, number: int, seed: int, jobs: int) -> list[Site]:
    """Try mutants of one file; prints each survivor and a summary, returns those not known to be equivalent."""
    target = TARGETS[name]
    source = (REPOSITORY / target.path).read_text(encoding="utf-8")
    limit_s = SLOWER * unchanged_takes(target, ast.parse(source)) + GRACE_S
    numbers, processes, results = set(chosen(name, source, number, seed)), {}, []
    for site, tree in mutants(source):
        if site.number not in numbers:
            continue
        while len(processes) >= jobs:
            results += finished(processes, limit_s)
        processes[start(target, tree)] = (site, time.monotonic())
        progress(f"{name}: {len(results)} of {len(numbers)}")
    while processes:
        results += finished(processes, limit_s)
    progress("")
    survivors = sorted(site for site, outcome in results if outcome == "survived")
    harmless = [site for site in survivors if reason(name, site)]
    print(f"{name}: {len(results)} mutants, {len(results) - len(survivors)} caught, {len(harmless)} equivalent, "
          f"{len(survivors) - len(harmless)} survived")  # fmt: skip
    for site in survivors:
        print(f"  {'equivalent' if reason(name, site) else 'SURVIVED  '} {site}", flush=True)
    return [site for site in survivors if not reason(name, site)]


def progress(line: str) -> None:
    """Show a line in place of the former one, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r{line:<40}\r{line}", end="", file=sys.stderr, flush=True)


def reason(name: str, site: Site) -> str | None:
    """Why this change makes no difference, where that is known."""
    return EQUIVALENT.get((name, site.function, site.before, site.after))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(TARGETS)}; all unless given")
    parser.add_argument("--number", type=int, default=40, help="mutants of each file; 0: all (default 40)")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--show", action="store_true", help="list the mutants, run nothing")
    options = parser.parse_args()
    unknown = sorted(set(options.files) - set(TARGETS))
    if unknown:
        parser.error(f"there is no '{unknown[0]}'; choose from {', '.join(TARGETS)}")
    names = options.files or list(TARGETS)
    if options.show:
        for name in names:
            source = (REPOSITORY / TARGETS[name].path).read_text(encoding="utf-8")
            numbers = set(chosen(name, source, options.number, options.seed))
            print(*(f"{name}: {site}" for site, _ in mutants(source) if site.number in numbers), sep="\n")
        return 0
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    survivors = [site for name in names for site in try_mutants(name, options.number, options.seed, options.jobs)]
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
