"""DICOM as other makers write it: other transfer syntaxes, blank tags, objects beside the CT, odd segment names."""

import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

pytest.importorskip("SimpleITK")

from test_readers import (
    affine,
    box_contours,
    box_mask,
    only,
    sentence,
    some_hu,
    write_image,
    write_rtstruct,
    write_seg,
    write_series,
)

from CNNSurvivalLib.batch import load_case
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.io.dicom import inflated_length, read_dataset
from CNNSurvivalLib.io.patient_folder import folder_cases
from CNNSurvivalLib.io.quiet import reading
from CNNSurvivalLib.io.read import find_segments, read_case
from dicom_files import save_big_endian

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom", "ignore::UserWarning:highdicom")


@pytest.fixture
def ct(tmp_path):
    write_series(tmp_path / "ct")
    return tmp_path / "ct"


@pytest.fixture
def mask(tmp_path):
    return write_image(tmp_path / "mask.nrrd", box_mask())


def in_syntax(source, path, syntax):
    """A copy of a DICOM file in another transfer syntax."""
    ds = pydicom.dcmread(source)
    if syntax == RLELossless:
        ds.compress(syntax)
    ds.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        if ds.BitsAllocated == 16:
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        save_big_endian(ds, path)
    else:
        ds.save_as(path)
    return path


# --- Transfer syntaxes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_a_ct_in_a_rare_transfer_syntax(ct, mask, tmp_path, syntax):
    (tmp_path / "other").mkdir()
    for path in ct.iterdir():
        in_syntax(path, tmp_path / "other" / path.name, syntax)
    case = read_case(tmp_path / "other", mask)
    assert np.array_equal(case.hu, some_hu()) and case.warnings == ()


def test_a_deflated_slice_cut_off_or_made_to_fill_the_memory_is_refused(ct, mask, monkeypatch):
    first = sorted(ct.iterdir())[0]
    in_syntax(first, first, DeflatedExplicitVRLittleEndian)
    whole = first.read_bytes()
    start = 144 + int(pydicom.dcmread(first).file_meta.FileMetaInformationGroupLength)
    inflated = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    place = inflated.index(b"\xe0\x7f\x10\x00OW") + 8
    lying = inflated[:place] + (3_000_000_000).to_bytes(4, "little") + inflated[place + 4 :]
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    first.write_bytes(whole[:start] + deflate.compress(lying) + deflate.flush())
    assert "damaged" in sentence(ct, mask)
    monkeypatch.setattr("CNNSurvivalLib.io.dicom.MAX_INFLATED", 1000)  # what a bomb is, on a small scale
    first.write_bytes(whole)
    assert np.array_equal(read_case(ct, mask).hu, some_hu()[1:])  # passed over, as what is no DICOM file


def test_a_deflated_file_with_bytes_behind_its_stream_is_counted_to_the_end():
    """A real one, of pydicom's: the reader once waited for ever at the byte of padding."""
    from pydicom.data import get_testdata_file

    path = Path(get_testdata_file("image_dfl.dcm", download=False))
    start = 144 + int(pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength)
    assert inflated_length(path) == len(zlib.decompress(path.read_bytes()[start:], -zlib.MAX_WBITS))


def other_meta(path, group_length, padding=b"", decoy=b""):
    """Changes the file meta information of a deflated file; group_length(bytes of
    the rest, of the stream) is what it says of the rest, None to leave it out."""
    whole = path.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    meta = padding + whole[144:start]
    said = group_length(len(meta), len(whole) - start)
    said = b"" if said is None else whole[132:140] + said.to_bytes(4, "little")
    path.write_bytes(whole[:132] + said + meta + whole[start:] + decoy)


DECOY = zlib.compress(b"small")[2:-4]  # without the head and the sum of zlib, as DICOM has it
PADDING = b"\x02\x00\x01\x00OB\x00\x00" + (70_000).to_bytes(4, "little") + bytes(70_000)
METAS = {
    "a padded meta": {"group_length": lambda meta, stream: meta, "padding": PADDING},
    "a group length that leads to a decoy": {"group_length": lambda meta, stream: meta + stream, "decoy": DECOY},
    "no group length": {"group_length": lambda meta, stream: None},
}


@pytest.mark.parametrize("meta", METAS.values(), ids=METAS)
def test_the_limit_counts_the_stream_that_is_inflated(ct, mask, monkeypatch, meta):
    """Wherever the file meta information says that the stream begins, or does not say it."""
    for path in ct.iterdir():
        in_syntax(path, path, DeflatedExplicitVRLittleEndian)
        other_meta(path, **meta)
    case = read_case(ct, mask)
    assert np.array_equal(case.hu, some_hu()) and case.warnings == ()
    monkeypatch.setattr("CNNSurvivalLib.io.dicom.MAX_INFLATED", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes, deflated"):
        read_dataset(next(ct.iterdir()))


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_seg_in_a_rare_transfer_syntax(ct, tmp_path, kind, syntax):
    drawn = box_mask().astype(float) if kind == "FRACTIONAL" else box_mask()
    seg = write_seg(tmp_path / "seg.dcm", ct, {"Tumour": drawn}, kind=kind)
    if kind == "BINARY" and syntax == RLELossless:
        ds = pydicom.dcmread(seg)
        frames = np.frombuffer(ds.PixelData, np.uint8).reshape(ds.NumberOfFrames, -1)
        ds.PixelData = encapsulate([bytes(8 * [0]) + frame.tobytes() for frame in frames])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(tmp_path / "other.dcm")
        text = sentence(ct, tmp_path / "other.dcm")
        assert "RLE Lossless" in text and "1 bit each" in text and "without compression" in text
        return
    assert np.array_equal(read_case(ct, in_syntax(seg, tmp_path / "other.dcm", syntax)).mask, box_mask())


def test_the_big_endian_seg_of_pydicoms_test_data(tmp_path):
    """Of one frame, which highdicom writes otherwise: the same as its twin in little endian."""
    from CNNSurvivalLib.io.dicom_seg import _little_endian

    one, two = (pydicom.dcmread(get_testdata_file(f"liver{name}_1frame.dcm")) for name in ("", "_expb"))
    again = _little_endian(two)
    assert again.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(again.pixel_array, one.pixel_array) and again.pixel_array.any()


def test_only_want_of_memory_is_called_so(tmp_path):
    """pydicom speaks of "bits allocated" where it cannot decode; SimpleITK raises RuntimeError for everything."""
    with pytest.raises(CNNSurvivalError, match="damaged"), reading("mask", tmp_path):
        raise NotImplementedError("unable to decode 1 bits allocated")
    with pytest.raises(CNNSurvivalError, match="damaged"), reading("mask", tmp_path):
        raise RuntimeError("1 bits allocated")
    with pytest.raises(MemoryError), reading("mask", tmp_path):
        raise MemoryError


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux' limit of address space")
@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_an_image_larger_than_the_memory_is_called_so(tmp_path, ending):
    head = {
        "nrrd": "NRRD0004\ntype: short\ndimension: 3\nsizes: 1000 1000 1900\nendian: little\nencoding: raw\n\n",
        "mha": "ObjectType = Image\nNDims = 3\nDimSize = 1000 1000 1900\nElementType = MET_SHORT\n"
        "ElementDataFile = LOCAL\n",
    }
    path = tmp_path / f"large.{ending}"
    with open(path, "wb") as stream:
        stream.write(head[ending].encode())
        stream.truncate(4_000_000_000)  # a hole: it takes no space
    code = (
        "import resource, sys; from CNNSurvivalLib.io.images import read_ct_image; from pathlib import Path\n"
        "import SimpleITK; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "try: read_ct_image(Path(sys.argv[1]))\n"
        "except MemoryError: print('no memory')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"})  # fmt: skip
    assert done.stdout.strip() == "no memory", done.stderr


# --- Blank tags, and what lies beside the CT ------------------------------------------------------------------------


def rewrite(folder, **values):
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        for name, value in values.items():
            setattr(ds, name, value)
        ds.save_as(path)


def test_a_ct_whose_uids_are_blank(ct, mask, tmp_path):
    """As TotalSegmentator's own example: the file meta information alone says that it is a CT."""
    frame = pydicom.dcmread(next(ct.iterdir())).FrameOfReferenceUID
    rewrite(ct, SOPClassUID="", SOPInstanceUID="", SeriesInstanceUID="", StudyInstanceUID="")
    case = read_case(ct, mask)
    assert np.array_equal(case.hu, some_hu()) and case.warnings == ()
    assert np.array_equal(read_case(next(ct.iterdir()), mask).hu, some_hu())
    contour = {"GTV": box_contours(affine())}
    text = only(read_case(ct, write_rtstruct(tmp_path / "rs.dcm", contour, generate_uid(), frame)).warnings)
    assert "does not say which series it is" in text
    foreign = write_rtstruct(tmp_path / "foreign.dcm", contour, generate_uid(), generate_uid())
    assert "another frame of reference" in sentence(ct, foreign)


def nameless(folder, target, **series):
    """A series without UIDs, made in ``folder``, put into ``target``."""
    write_series(folder, **series)
    rewrite(folder, SOPInstanceUID="", SeriesInstanceUID="")
    target.mkdir(exist_ok=True)
    for path in sorted(folder.iterdir()):
        path.rename(target / f"{folder.name}-{path.name}")


@pytest.mark.parametrize("places", [12 + np.arange(12), 0.5 + np.arange(12)], ids=["side by side", "interleaved"])
@pytest.mark.parametrize(
    "difference",
    [{"SeriesNumber": 2}, {"SeriesDescription": "Chest B60"}, {"FrameOfReferenceUID": "1.2.3"}, {"modality": "MR"}],
    ids=lambda values: next(iter(values)),
)
def test_two_series_without_uid_are_not_merged(mask, tmp_path, places, difference):
    folder = tmp_path / "both"
    nameless(tmp_path / "one", folder)
    assert np.array_equal(read_case(folder, mask).hu, some_hu())
    nameless(tmp_path / "two", folder, places=3 * places, **difference)
    for given in (folder, next(folder.iterdir())):
        text = sentence(given, mask)
        assert f"{folder} holds slices of several series without a SeriesInstanceUID" in text and "only one" in text


def test_a_file_without_series_uid_stands_for_the_series_without_uid(ct, mask, tmp_path):
    """No other series of the folder is read in its place."""
    nameless(tmp_path / "other", ct, hu=some_hu()[:11] + np.int16(7))
    one = next(ct.glob("other-*"))
    assert np.array_equal(read_case(one, mask).hu, some_hu()[:11] + 7)
    for path in ct.glob("other-*"):
        path.unlink()
    nameless(tmp_path / "mr", ct, modality="MR")
    assert "modality MR, not CT" in sentence(next(ct.glob("mr-*")), mask)
    assert np.array_equal(read_case(ct, mask).hu, some_hu())
    nameless(tmp_path / "overview", ct, hu=some_hu()[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for path in ct.glob("mr-*"):
        path.unlink()
    text = sentence(next(ct.glob("overview-*")), mask)
    assert "The series without UID (a localizer, 'Chest 3 mm')" in text and "is not a CT" in text


def test_only_ct_image_storage_is_a_ct_and_the_rest_is_named_when_asked_for(ct, mask, tmp_path):
    """A dose page that calls itself CT, an overview, and a structure set in the CT's folder."""
    uid = pydicom.dcmread(next(ct.iterdir())).SeriesInstanceUID
    page, overview = generate_uid(), generate_uid()
    write_series(tmp_path / "page", some_hu()[:1], uid=page, SeriesDescription="Exam Summary")
    rewrite(tmp_path / "page", SOPClassUID=SecondaryCaptureImageStorage)
    write_series(tmp_path / "overview", some_hu()[:2], uid=overview, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for folder in ("page", "overview"):
        for path in (tmp_path / folder).iterdir():
            path.rename(ct / f"{folder}-{path.name}")
    write_rtstruct(ct / "rs.dcm", {"GTV": box_contours(affine())}, uid)
    structures = pydicom.dcmread(ct / "rs.dcm").SeriesInstanceUID
    assert np.array_equal(read_case(ct, mask).hu, some_hu())
    for asked, words in [(page, "Secondary Capture Image Storage"), (overview, "a localizer"),
                         (structures, "of modality RTSTRUCT")]:  # fmt: skip
        text = sentence(ct, mask, series_uid=asked)
        assert asked in text and words in text and "not a CT" in text and f"{uid} (12 slices" in text
    assert "'Exam Summary'" in sentence(ct, mask, series_uid=page)
    assert "a localizer" in sentence(next(ct.glob("overview*")), mask)
    for path in ct.glob("*"):
        if not path.name.startswith("page"):
            path.unlink()
    text = sentence(ct, mask)
    assert "holds no DICOM CT slices" in text and "Secondary Capture" in text and "'Exam Summary'" in text


def test_a_folder_of_patients_counts_no_secondary_capture(ct, tmp_path):
    prepare = pytest.importorskip("training_cli.cohort.prepare", reason="needs what the command prepare needs")
    write_series(tmp_path / "page", some_hu()[:1])
    rewrite(tmp_path / "page", SOPClassUID=SecondaryCaptureImageStorage)
    write_rtstruct(tmp_path / "rs.dcm", {"GTV": box_contours(affine())}, frame=None)  # names no series
    (case,), problems = prepare.find_dicom_cases(tmp_path, None)
    assert not problems and case.image_path == ct


# --- Names of segments ----------------------------------------------------------------------------------------------


def test_ten_segments_of_one_name_are_told_apart_by_number_and_tracking_id(ct, tmp_path):
    masks = {f"Nodule {n}": np.roll(box_mask(), n, axis=2) for n in range(10)}
    path = write_seg(tmp_path / "seg.dcm", ct, masks)
    ds = pydicom.dcmread(path)
    for number, item in enumerate(ds.SegmentSequence, 1):
        item.SegmentLabel, item.TrackingID, item.TrackingUID = "Nodule", f"lesion-{number}", generate_uid()
    ds.save_as(path)
    text = sentence(ct, path)
    assert "10 segments" in text and "1: 'Nodule' (lesion-1)" in text and "10: 'Nodule' (lesion-10)" in text
    text = sentence(ct, path, "nodule")
    assert "give its number instead" in text and "7: 'Nodule' (lesion-7)" in text and "rename" not in text
    for asked in ("7", "lesion-7", "Lesion-7 "):
        case = read_case(ct, path, asked)
        assert np.array_equal(case.mask, masks["Nodule 6"]) and case.segment_name == "Nodule"


def test_the_background_of_a_labelmap_is_no_segment(ct, tmp_path):
    path = write_seg(tmp_path / "seg.dcm", ct, {"Tumour": box_mask()}, kind="LABELMAP")
    ds = pydicom.dcmread(path)
    for number in (0, 5):
        item = pydicom.Dataset()
        item.update(ds.SegmentSequence[0])
        kind = pydicom.Dataset()
        kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning = "125040", "DCM", "Background"
        item.SegmentNumber, item.SegmentLabel, item.SegmentedPropertyTypeCodeSequence = number, "Background", [kind]
        ds.SegmentSequence.append(item)
    ds.save_as(path)
    assert np.array_equal(read_case(ct, path).mask, box_mask())
    assert "it has 'Tumour'" in sentence(ct, path, "Background")


def test_segments_of_slicer_with_one_name_and_label_are_told_apart_by_id(ct, tmp_path):
    layers = np.stack([box_mask(), np.roll(box_mask(), 3, axis=2)], axis=-1)
    header = {}
    for n in range(2):
        header |= {f"Segment{n}_ID": f"Segment_{n + 4}", f"Segment{n}_Name": "GTV", f"Segment{n}_LabelValue": 1,
                   f"Segment{n}_Layer": n}  # fmt: skip
    path = write_image(tmp_path / "two.seg.nrrd", layers, vector=True, **header)
    text = sentence(ct, path, "GTV")
    assert "give its id instead" in text and "1: 'GTV' (Segment_4), 1: 'GTV' (Segment_5)" in text
    assert np.array_equal(read_case(ct, path, "Segment_5").mask, layers[..., 1])


# --- Several segments, and ZIP archives -----------------------------------------------------------------------------


def test_names_and_patterns_choose_segments_of_every_kind_of_mask(ct, tmp_path):
    masks = {name: np.roll(box_mask(), n, axis=2) for n, name in enumerate(["GTV-1", "Lung", "gtv 2", "GTV[old]"])}
    seg = write_seg(tmp_path / "seg.dcm", ct, masks)
    assert find_segments(seg, ["gtv*"]) == ["GTV-1", "gtv 2", "GTV[old]"]
    assert find_segments(seg, ["GTV[*", "lung", "Lung"]) == ["Lung", "GTV[old]"]
    structures = write_rtstruct(tmp_path / "rs.dcm", {name: box_contours(affine()) for name in masks})
    assert find_segments(structures, ["GTV??", "2"]) == ["GTV-1", "Lung", "gtv 2"]
    labels = write_image(tmp_path / "labels.nrrd", box_mask() + 10 * np.roll(box_mask(), 1, axis=2))
    assert find_segments(labels, ["1*"]) == ["1", "10", "11"]
    for item in (ds := pydicom.dcmread(seg)).SegmentSequence:
        item.SegmentLabel = "Nodule"
    ds.save_as(seg)
    assert find_segments(seg, ["Nod*"]) == ["1", "2", "3", "4"]
    with pytest.raises(UsageError, match="4 segments that 'Nodule' can mean"):
        find_segments(seg, ["Nodule"])


def zipped(folder, path, **names):
    """The folder's files in an archive, as a hospital exports them; names: further members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, f"export/DICOM/{file.relative_to(folder)}")
        for name, content in names.items():
            archive.writestr(name, content)
    return path


def test_a_zipped_dicom_folder_is_read_as_the_folder(ct, mask, tmp_path):
    write_rtstruct(ct / "rs.dcm", {"GTV": box_contours(affine()), "Heart": box_contours(affine())},
                   pydicom.dcmread(next(ct.iterdir())).SeriesInstanceUID)  # fmt: skip
    evil = {"../../evil.dcm": b"x", "/abs": b"y", "c:\\d": b"z"}
    archive = zipped(ct, tmp_path / "export.zip", DICOMDIR=b"x", **evil)
    before = set(tmp_path.parent.rglob("*"))
    one, two = read_case(archive, archive, "GTV"), read_case(ct, ct / "rs.dcm", "GTV")
    assert np.array_equal(one.hu, two.hu) and np.array_equal(one.mask, two.mask) and one.warnings == two.warnings
    assert np.array_equal(read_case(archive, mask).hu, some_hu())
    assert find_segments(archive, ["*"]) == ["GTV", "Heart"]
    assert set(tmp_path.parent.rglob("*")) == before
    text = sentence(archive, archive)  # names the archive, not the folder that is gone
    assert str(archive) in text and "'GTV', 'Heart'" in text and "cnn-survival-" not in text
    write_series(ct)
    text = sentence(zipped(ct, archive), mask)
    assert f"The archive {archive} holds 2 CT series" in text


def test_archives_that_would_fill_the_disk_or_are_damaged_are_refused(ct, mask, tmp_path, monkeypatch):
    path = zipped(ct, tmp_path / "export.zip")
    whole = path.read_bytes()
    monkeypatch.setattr("CNNSurvivalLib.io.archive.MAX_MEMBERS", 5)
    assert "more than 5 files" in sentence(path, mask)
    monkeypatch.undo()
    monkeypatch.setattr("CNNSurvivalLib.io.archive.MAX_UNPACKED", 10_000)
    assert "holds more than" in sentence(path, mask)
    info = zipfile.ZipFile(path).infolist()[0]
    path.write_bytes(whole.replace(info.file_size.to_bytes(4, "little"), (1).to_bytes(4, "little")))  # it lies
    assert "damaged" in sentence(path, mask)
    monkeypatch.undo()
    for spoilt in (whole[: len(whole) // 2], whole[:2000] + bytes(1500) + whole[3500:], b"PK\x03\x04"):
        path.write_bytes(spoilt)
        assert "cannot be unpacked" in sentence(path, mask)
    content = bytearray(whole)
    for start in (whole.index(b"PK\x03\x04") + 6, whole.index(b"PK\x01\x02") + 8):
        content[start] |= 1
    path.write_bytes(content)
    assert "password" in sentence(path, mask)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no DICOM CT slices" in sentence(zipped(empty, path, readme=b"x"), mask)
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = 0o120777 << 16  # a symbolic link becomes a plain file with the text of its target
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "holds no DICOM CT slices" in sentence(path, mask)


def test_zipped_patients_in_a_folder_and_in_a_manifest(ct, tmp_path):
    uid = pydicom.dcmread(next(ct.iterdir())).SeriesInstanceUID
    write_rtstruct(ct / "rs.dcm", {"GTV": box_contours(affine())}, uid)
    (tmp_path / "patients" / "two").mkdir(parents=True)
    zipped(ct, tmp_path / "patients" / "one.zip")
    zipped(ct, tmp_path / "patients" / "two" / "export.zip")
    cases = folder_cases(tmp_path / "patients")
    assert [case.patient_id for case in cases] == ["two", "one"] and not any(case.problem for case in cases)
    assert all(np.array_equal(load_case(case).mask, box_mask()) for case in cases)


def test_prepare_looks_for_the_segment_in_a_zipped_patient(ct, tmp_path):
    prepare = pytest.importorskip("training_cli.cohort.prepare", reason="needs what the command prepare needs")
    write_rtstruct(ct / "rs.dcm", {"GTV": box_contours(affine())})
    zipped(ct, tmp_path / "one.zip")
    assert prepare._choose_segment(tmp_path / "one.zip", "gtv") == "GTV"
