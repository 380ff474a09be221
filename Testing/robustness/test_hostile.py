"""Inputs that are damaged, or made to do harm: a refusal in one sentence or a right result, never a crash or a hang.

In a normal run a sample is tried; CNNSURVIVAL_FUZZ=full cuts every file off at every byte and damages each 1,000 times
(an hour; -k picks a part of it).
"""

# ruff: noqa: E402 (what may be missing is looked for before it is imported)

import csv
import gzip
import hashlib
import html.parser
import io
import json
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

for name in ("pydicom", "SimpleITK", "highdicom", "skimage", "matplotlib"):
    pytest.importorskip(name)

import pydicom

import hostile_maker as maker
from CNNSurvivalLib.bundle import find_bundles, load_bundle
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import escape_csv, unescape_csv, write_csv
from CNNSurvivalLib.io.read import read_case
from training_cli.cli import main

FULL = os.environ.get("CNNSURVIVAL_FUZZ") == "full"
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="needs pipes, links and limits of a Unix system")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux' limit of address space")
NASTY_NAMES = ["GTV\nError: all is well.", "\u202egpj.VTG", "GTV\u200f\u2028", "\x1b[2J\x1b]0;gone\x07", "a" * 5000,
               " ", ""]  # fmt: skip


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return maker.make_targets(tmp_path_factory.mktemp("targets"))


@pytest.fixture
def case(targets, tmp_path):
    """A copy to spoil: bundle, ct.nrrd, mask.seg.nrrd, ct/, seg.dcm, structures.dcm."""
    import shutil

    return shutil.copytree(targets, tmp_path / "case")


def refused(call, *words):
    """The sentence with which a function refuses."""
    with pytest.raises(CNNSurvivalError) as error:
        call()
    text = str(error.value)
    assert text.isprintable() and text.endswith((".", ")")) and len(text) < 4000, text
    for word in words:
        assert word in text
    return text


# --- Damaged files --------------------------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize("chosen", [[target] for target in maker.TARGETS] if FULL else [maker.TARGETS])
def test_files_cut_off_and_damaged_are_refused_or_read(targets, tmp_path, chosen):
    cases = []
    for target in chosen:
        size = (targets / maker.NAMES[target]).stat().st_size
        cases += [(target, "truncate", number) for number in range(0, size, 1 if FULL else size // 12)]
        cases += [(target, "corrupt", number) for number in range(1000 if FULL else 50)]
    tally = maker.run_worker(targets, tmp_path / "w", cases)
    print(f"{', '.join(chosen)}: {tally.tried} tried, {tally.refused} refused")
    assert not tally.faults
    assert tally.tried == len(cases) and tally.refused > 12 * len(chosen)


# --- Bombs: small files that would fill the memory ------------------------------------------------------------------


def npz(**members) -> bytes:
    """An .npz of members that are bytes of .npy files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", ".") + ".npy", content)
    return buffer.getvalue()


def npy_header(shape) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def lying_zip() -> bytes:
    """A gigabyte of zeros whose size the archive gives as 64 bytes."""
    content = bytearray(npz(hidden_bias=npy_header((2**28,)) + bytes(1 << 27)))
    size = (len(npy_header((2**28,))) + (1 << 27)).to_bytes(4, "little")
    return bytes(content.replace(size, (64).to_bytes(4, "little")))


WEIGHT_BOMBS = {
    "shape": lambda: npz(hidden_bias=npy_header((10**13,))),
    "shape that overflows": lambda: npz(hidden_bias=npy_header((2**40, 2**40))),
    "negative shape": lambda: npz(hidden_bias=npy_header((-5,))),
    "zeros": lambda: npz(hidden_bias=npy_header((2**28,)) + bytes(1 << 27)),
    "lying zip": lying_zip,
    "many members": lambda: npz(**{f"x{n}": b"" for n in range(20_000)}),
    "long header": lambda: npz(hidden_bias=b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"(" * 10**6),
}


@LINUX
@pytest.mark.parametrize("bomb", WEIGHT_BOMBS)
def test_bombs_in_weights_are_refused(case, bomb):
    content = WEIGHT_BOMBS[bomb]()
    (case / "bundle" / "weights.npz").write_bytes(content)
    path = case / "bundle" / "bundle.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**info, "weights_sha256": hashlib.sha256(content).hexdigest()}), encoding="utf-8")
    assert "weights" in refused(lambda: load_bundle(case / "bundle"))
    if bomb == "lying zip" or FULL:
        predicted_under_limit(case, case / "ct.nrrd", case / "mask.seg.nrrd", code=1)


def predicted_under_limit(case, image, mask, code, *words):
    """predict in a process of its own with 4 GB of address space, within 10 s of starting to work."""
    script = (
        "import hostile_maker, sys; hostile_maker.limit_memory(); from training_cli.cli import main; sys.exit(main())"
    )
    command = ["predict", "--image", image, "--mask", mask, "--model", case / "bundle", "--output", case / "out"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True,
                          env=maker.environment(), timeout=maker.HANG_SECONDS + 20)  # fmt: skip
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == bool(code) and "Traceback" not in done.stderr and "Unexpected" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr


def nrrd(path, sizes, content=b"", encoding="raw", more="", kind="short"):
    header = (f"NRRD0004\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
              "space directions: (1,0,0) (0,1,0) (0,0,3)\nkinds: domain domain domain\nendian: little\n"
              f"encoding: {encoding}\nspace origin: (0,0,0)\n{more}\n")  # fmt: skip
    path.write_bytes(header.encode() + content)
    return path


@pytest.mark.parametrize(
    "sizes", ["100000 100000 100", "4294967296 4294967296 4294967296", "65536 65536 65536", "-5 4 4", "0 4 4",
              "99999999999999999999 4 4", "1024 1024 2000", "nan 1 1"]
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_images_that_claim_to_be_giants_are_refused(case, sizes, encoding):
    content = bytes(1000) if encoding == "raw" else gzip.compress(bytes(1000))
    path = nrrd(case / "giant.nrrd", sizes, content, encoding)
    refused(lambda: read_case(path, case / "mask.seg.nrrd"), "giant.nrrd")
    refused(lambda: read_case(case / "ct.nrrd", path), "giant.nrrd")


@LINUX
@pytest.mark.skipif(not FULL, reason="takes 10 s; CNNSURVIVAL_FUZZ=full")
def test_a_gigabyte_of_zeros_in_a_megabyte(case):
    path = nrrd(case / "zeros.nrrd", "1024 1024 512", gzip.compress(bytes(1 << 30), 1), "gzip")
    predicted_under_limit(case, path, case / "mask.seg.nrrd", 1, "outside the CT")
    predicted_under_limit(case, case / "ct.nrrd", path, 1, "is empty")


HEADER_LINES = [
    "x" * 5000, "foo: " + "x" * 5000, "x" * 5000 + ": foo", "kinds: " + "x" * 5000, "content: " + "x" * 5000,
    "space units: " + '"' * 5000, "measurement frame: " + "(" * 5000, "labels: " + '"' + "x" * 5000,
    "content: x:=" + "x" * 5000, "foo: bar:=" + "x" * 5000,
]  # fmt: skip


@LINUX
@pytest.mark.parametrize("line", HEADER_LINES, ids=lambda line: line[:12] + line[-1])
def test_long_lines_in_a_nrrd_header_do_not_reach_itk(case, line):
    """ITK's reader writes a line that it cannot parse into a buffer of 1 kB on its stack."""
    path = nrrd(case / "long.nrrd", "8 8 2", bytes(256), more=line + "\n")
    refused(lambda: read_case(path, case / "mask.seg.nrrd"), "long.nrrd")
    path.replace(case / "long.nhdr")
    refused(lambda: read_case(case / "long.nhdr", case / "mask.seg.nrrd"), "long.nhdr")


def test_long_values_in_a_nrrd_header_are_read(case):
    hu, mask = maker.arrays()
    path = maker.write_nrrd(case / "long.seg.nrrd", mask, facts={"Conversion": "x: y;" * 20_000})
    assert read_case(case / "ct.nrrd", path).mask.sum() == mask.sum()


@pytest.mark.parametrize("suffix, header", [
    (".mha", "ObjectType = Image\nNDims = 3\nDimSize = 60000 60000 60000\nElementType = MET_SHORT\n"
             "ElementSpacing = 1 1 1\nElementDataFile = LOCAL\n"),
    (".mhd", "ObjectType = Image\nNDims = 3\nDimSize = 60000 60000 60000\nElementType = MET_SHORT\n"
             "ElementSpacing = 1 1 1\nElementDataFile = ct.nrrd\n"),
])  # fmt: skip
def test_metaimages_that_claim_to_be_giants_are_refused(case, suffix, header):
    (case / f"giant{suffix}").write_text(header)
    refused(lambda: read_case(case / f"giant{suffix}", case / "mask.seg.nrrd"), "giant")


@LINUX
def test_dicom_slices_that_claim_to_be_giants_are_refused(case):
    for path in sorted((case / "ct").iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.Rows = dataset.Columns = 65535
        dataset.save_as(path)
    predicted_under_limit(case, case / "ct", case / "mask.seg.nrrd", 1)


def test_a_slice_far_off_does_not_fill_the_memory(case):
    path = case / "ct" / "0007.dcm"
    dataset = pydicom.dcmread(path)
    dataset.ImagePositionPatient[2] = 900_000
    dataset.save_as(path)
    refused(lambda: read_case(case / "ct", case / "mask.seg.nrrd"), "gaps of up to")


@pytest.mark.parametrize("place", [1e30, 9e3, float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:Invalid value")  # of pydicom, as this test writes them
def test_contours_far_off_do_not_fill_the_memory(case, place):
    path = case / "structures.dcm"
    dataset = pydicom.dcmread(path)
    for contour in dataset.ROIContourSequence[0].ContourSequence[:2]:
        points = np.array(contour.ContourData).reshape(-1, 3)
        points[0] = [place, -place, place]
        contour.ContourData = [f"{value:.10g}"[:16] for value in points.ravel()]
    dataset.save_as(path)
    assert maker.outcome_of(lambda: predicted(case, path)) in ("refused", "result")


def predicted(case, mask, image="ct"):
    from CNNSurvivalLib.prediction import predict

    found = read_case(case / image, mask, "GTV-1")
    return predict(found.hu, found.mask, found.ijk_to_ras, load_bundle(case / "bundle"), max_slices=1)


@pytest.mark.parametrize("count", [30, 2_000])
def test_a_population_of_very_many_covariates_is_refused_at_once(count):
    """n covariates have 2^n sets; a term is wanted for each of them."""
    from bundle_maker import bundle_info_2, population_info
    from CNNSurvivalLib.bundle_schema import problem_of

    covariates = [{"name": f"c{n}", "label": "c", "low": 0, "high": 1} for n in range(count)]
    info = {**bundle_info_2([population_info(covariates=covariates)]), "format_version": 2, "weights_sha256": "0" * 64}
    start = time.monotonic()
    assert "one term for each set of its covariates" in problem_of(info)
    assert time.monotonic() - start < 1


# --- Paths, links, pipes and devices --------------------------------------------------------------------------------


@UNIX
@pytest.mark.parametrize("name", ["weights.npz", "bundle.json"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/etc/passwd", "loop", "folder", "nothing"])
def test_a_bundle_of_links_and_pipes_is_refused(case, name, kind):
    path = case / "bundle" / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind != "nothing":
        path.symlink_to(kind)
    text = refused(lambda: load_bundle(case / "bundle"))
    assert "root:" not in text
    assert all(bundle is None for _, bundle, _ in find_bundles([case]))


@UNIX
def test_a_linked_bundle_is_a_bundle(case, tmp_path):
    (tmp_path / "link").symlink_to(case / "bundle")
    assert load_bundle(tmp_path / "link").id == "random-1.0"


@UNIX
def test_pipes_devices_and_loops_as_images(case):
    os.mkfifo(case / "pipe.nrrd")
    (case / "loop.nrrd").symlink_to(case / "loop.nrrd")
    for bad in (case / "pipe.nrrd", case / "loop.nrrd", "/dev/zero", "/dev/null"):
        refused(lambda bad=bad: read_case(bad, case / "mask.seg.nrrd"))
        refused(lambda bad=bad: read_case(case / "ct.nrrd", bad))
    for data in ("pipe.nrrd", "/dev/zero", "../absent"):
        path = nrrd(case / "detached.nhdr", "8 8 2", more=f"data file: {data}\n")
        refused(lambda path=path: read_case(path, case / "mask.seg.nrrd"), "another file")


@UNIX
def test_pipes_and_loops_beside_dicom_slices_are_passed_over(case):
    whole = read_case(case / "ct", case / "seg.dcm", "GTV-1")
    os.mkfifo(case / "ct" / "pipe.dcm")
    (case / "ct" / "loop").symlink_to(case / "ct")
    (case / "ct" / "self").symlink_to(case / "ct" / "self")
    again = read_case(case / "ct", case / "seg.dcm", "GTV-1")
    np.testing.assert_array_equal(whole.hu, again.hu)


def test_patient_ids_that_are_paths_stay_inside_the_output(case):
    ids = ["../../evil", "/abs", "..", ".", "a/b", "..\\evil", "~", "x" * 120]
    write_csv(case / "cases.csv", ["patient_id", "image", "mask"], [[i, "ct.nrrd", "mask.seg.nrrd"] for i in ids[:4]]
              + [[i, "../outside.nrrd", "mask.seg.nrrd"] for i in ids[4:]])  # fmt: skip
    before = set(case.parent.rglob("*"))
    command = ["predict", "--manifest", case / "cases.csv", "--model", case / "bundle", "--output", case / "out"]
    assert main([*map(str, command), "--details"]) == 3
    new = set(case.parent.rglob("*")) - before
    assert new and all(path.is_relative_to(case / "out") for path in new)


# --- What a spreadsheet would run -----------------------------------------------------------------------------------

FORMULAS = [
    "=cmd|' /C calc'!A0", "+1+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1+1)*cmd", "\t=1+1", "\r=1+1",
    "\n=1+1", "＝1+1", 'a;=cmd|x', 'a;"=cmd|x', "a\t=cmd|x", "a\n=cmd", "'=1+1",
]  # fmt: skip
NUMBERS = ["-5", "+5", "-0.25", "1e-3", "-1.5E+10", "12", ".5"]


def cells_as_a_spreadsheet_splits_them(text):
    """Every cell, whichever of the usual separators it takes; lines end anywhere."""
    for delimiter in ",;\t":
        for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            for cell in line:
                yield from cell.splitlines() or [""]


def test_no_cell_is_a_formula_and_numbers_stay_numbers(tmp_path):
    write_csv(tmp_path / "a.csv", ["id", "=name", "value"], [*[[t, t, -1.5] for t in FORMULAS],
                                                               *[[t, "", float(t)] for t in NUMBERS]])  # fmt: skip
    text = (tmp_path / "a.csv").read_bytes().decode()
    for cell in cells_as_a_spreadsheet_splits_them(text):
        cell = cell.lstrip('"')
        assert not cell.startswith(("=", "@", "＝")), cell
        assert not cell.startswith(("+", "-")) or not set(cell) - set("0123456789.,;+-eE"), cell  # numbers alone
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))[1:]
    assert [unescape_csv(row[0]) for row in rows] == FORMULAS + NUMBERS
    assert [row[0] for row in rows[len(FORMULAS) :]] == NUMBERS
    assert all(float(row[2]) == -1.5 for row in rows[: len(FORMULAS)])
    assert [escape_csv(t) for t in ("T1-weighted", "a; b", "5 - 3", "")] == ["T1-weighted", "a; b", "5 - 3", ""]


def test_formulas_in_a_manifest_come_out_disarmed(case, capsys):
    with open(case / "cases.csv", "w", newline="", encoding="utf-8") as stream:
        rows = [[f, "ct.nrrd", "mask.seg.nrrd"] for f in FORMULAS[:2]] + [["-7", "=cmd", "@mask"]]
        csv.writer(stream).writerows([["patient_id", "image", "mask"], *rows])
    command = ["predict", "--manifest", case / "cases.csv", "--model", case / "bundle", "--output", case / "out"]
    assert main(list(map(str, command))) == 3
    for name in ("predictions.csv", "failures.csv"):
        for cell in cells_as_a_spreadsheet_splits_them((case / "out" / name).read_text(encoding="utf-8")):
            assert not cell.startswith(("=", "@", "+")), cell
    assert "-7," in (case / "out" / "failures.csv").read_text()
    capsys.readouterr()


def test_a_store_gives_back_the_patient_ids_that_it_was_given(case):
    pytest.importorskip("pandas")
    ids = ["=1+1", "-5", "@a", "'=b", "plain", "<b>bold</b>"]
    rows = [[i, "ct.nrrd", "mask.seg.nrrd", 100 + n, n % 2] for n, i in enumerate(ids)]
    with open(case / "cases.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["patient_id", "image", "mask", "time_days", "event"], *rows])
    assert main(["prepare", str(case / "cases.csv"), "--output", str(case / "store")]) == 0
    from training_cli.cohort.store import open_store

    store = open_store(case / "store")
    assert store.patient_ids == ids and list(dict.fromkeys(store.slices["patient_id"])) == ids
    assert store.part(["=1+1", "-5"]).patient_ids == ["=1+1", "-5"]
    for cell in cells_as_a_spreadsheet_splits_them((case / "store" / "patients.csv").read_text(encoding="utf-8")):
        assert not cell.startswith(("=", "@")), cell


# --- Names ----------------------------------------------------------------------------------------------------------


class _Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.attributes = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_html_in_names_is_text_in_the_report(tmp_path):
    pytest.importorskip("jinja2")
    import base64

    from training_cli.study.html import Figure, Report, Section, Table, write_report

    evil = ['<script>alert("x")</script>', '"><img src=x onerror=alert(1)>', "</pre></title><iframe>", "{{ 7*7 }}",
            "{% raw %}", "javascript:alert(1)", "\u202eabc", "a\nb", "&lt;b&gt;"]  # fmt: skip
    png = tmp_path / '"><script>.png'
    png.write_bytes(base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJggg=="))  # fmt: skip  # noqa: E501
    sections = [Section(text, [text, Table(text, [text], [[text]], note=text), Figure(text, png, text)])
                for text in evil]  # fmt: skip
    for text in evil:
        path = write_report(Report(text, evil, sections, text, [(text, text)]), tmp_path / "report")
        page = path.read_text(encoding="utf-8")
        tags = _Tags(page)
        assert not tags.found & {"script", "iframe", "object", "svg", "form"} and "onerror" not in tags.attributes
        assert page.count("<img") == len(evil) and "49" not in page.split("</style>")[1].split("base64")[0]
        assert "default-src 'none'" in page
    assert all(p.is_relative_to(tmp_path / "report") or p == png for p in tmp_path.rglob("*") if p.is_file())


def rename_structures(path, names):
    dataset = pydicom.dcmread(path)
    first = dataset.StructureSetROISequence[0]
    dataset.StructureSetROISequence = []
    for number, name in enumerate(names, 1):
        item = pydicom.Dataset()
        item.update(first)
        item.ROINumber, item.ROIName = number, name
        dataset.StructureSetROISequence.append(item)
    dataset.save_as(path)


@pytest.mark.filterwarnings("ignore:.*alue")  # pydicom's, of the names, when this test writes them
def test_names_with_newlines_escapes_and_marks_stay_on_one_line(case, capsys):
    rename_structures(case / "structures.dcm", NASTY_NAMES)
    with pytest.raises(UsageError) as error:
        read_case(case / "ct", case / "structures.dcm")
    assert str(error.value).isprintable() and len(str(error.value)) < 1000
    for name in ("gpj.VTG", "GTV", "GTV Error: all is well."):  # as the message shows them
        outcome = maker.outcome_of(lambda name=name: predicted_of(case, case / "structures.dcm", name))
        assert outcome in ("refused", "result"), outcome
    assert read_case(case / "ct", case / "structures.dcm", "GTV Error: all is well.").segment_name.startswith("GTV")
    for asked in ("\u202ex\n", "\x1b[2J"):
        refused(lambda asked=asked: read_case(case / "ct", case / "structures.dcm", asked))
    hu, mask = maker.arrays()
    facts = {}
    for n, name in enumerate(NASTY_NAMES):
        facts |= {f"Segment{n}_ID": f"S{n}", f"Segment{n}_Name": name.replace("\n", " "), f"Segment{n}_Layer": "0",
                  f"Segment{n}_LabelValue": str(n + 1)}  # fmt: skip
    refused(lambda: read_case(case / "ct.nrrd", maker.write_nrrd(case / "n.seg.nrrd", mask, facts=facts)), "--segment")
    command = ["predict", "--image", case / "ct", "--mask", case / "structures.dcm", "--segment", "gpj.VTG",
               "--model", case / "bundle", "--output", case / "out"]  # fmt: skip
    assert main(list(map(str, command))) == 0
    assert all(line.isprintable() for line in "".join(capsys.readouterr()).split("\n"))


def predicted_of(case, mask, segment):
    from CNNSurvivalLib.prediction import predict

    found = read_case(case / "ct", mask, segment)
    return predict(found.hu, found.mask, found.ijk_to_ras, load_bundle(case / "bundle"), max_slices=1)


def numbered(dataset, sequence, many, **names):
    """The dataset with items 3..many in a sequence, as copies of the second."""
    items = list(dataset[sequence].value)
    for number in range(3, many + 1):
        item = pydicom.Dataset()
        item.update(items[1])
        for name, value in names.items():
            setattr(item, name, value.format(number) if isinstance(value, str) else number)
        items.append(item)
    dataset[sequence].value = items
    return dataset


def test_ten_thousand_structures_labels_and_segments(case):
    """Found by name where the libraries can; where they would take minutes, refused."""
    path = case / "structures.dcm"
    numbered(pydicom.dcmread(path), "StructureSetROISequence", 10_000, ROINumber=0, ROIName="OAR {}").save_as(path)
    assert read_case(case / "ct", path, "GTV-1").mask.any()
    text = refused(lambda: read_case(case / "ct", path), "10000 structures", "and 9960 more")
    assert len(text) < 2000
    labels = maker.write_nrrd(case / "labels.nrrd", np.arange(7 * 48 * 48, dtype=np.uint16).reshape(maker.SHAPE))
    refused(lambda: read_case(case / "ct.nrrd", labels), "16127 labels", "more")
    assert read_case(case / "ct.nrrd", labels, "7").mask.sum() == 1
    header = "".join(f"Segment{n}_ID:=S{n}\nSegment{n}_Name:=Part {n}\nSegment{n}_Layer:=0\n" for n in range(10_000))
    content = (case / "mask.seg.nrrd").read_bytes()
    (case / "many.seg.nrrd").write_bytes(content.replace(b"\n\n", b"\n" + header.encode() + b"\n", 1))
    refused(lambda: read_case(case / "ct.nrrd", case / "many.seg.nrrd"), "more than 1000 segments")


def test_a_dicom_seg_of_very_many_segments(case):
    path = case / "seg.dcm"
    few = numbered(pydicom.dcmread(path), "SegmentSequence", 100, SegmentNumber=0, SegmentLabel="Organ {}")
    few.save_as(case / "few.dcm")
    assert read_case(case / "ct", case / "few.dcm", "GTV-1").mask.any()
    refused(lambda: read_case(case / "ct", case / "few.dcm"), "100 segments", "and 60 more")
    numbered(pydicom.dcmread(path), "SegmentSequence", 1_001, SegmentNumber=0, SegmentLabel="O {}").save_as(path)
    refused(lambda: read_case(case / "ct", path, "GTV-1"), "more than 1000 segments")
