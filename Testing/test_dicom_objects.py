"""The result as DICOM objects in the CT's study: what an archive, a viewer and a reader of DICOM find in them.

Those that need highdicom or a program skip without it; the others also run with pydicom 2.4 (Testing/compatibility.sh).
"""

import datetime
import io
import json
import logging
import shutil
import socket
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("SimpleITK")

import dicom_maker as maker  # noqa: E402
from CNNSurvivalLib.engines import create_engine  # noqa: E402
from CNNSurvivalLib.errors import CNNSurvivalError  # noqa: E402
from CNNSurvivalLib.explanation import occlusion_maps, on_ct_grid  # noqa: E402
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY, predict  # noqa: E402
from CNNSurvivalLib.report.dicom import folder as objects  # noqa: E402
from CNNSurvivalLib.report.dicom.secondary_capture import pixels_of  # noqa: E402
from CNNSurvivalLib.report.dicom.study import REQUIRED, read_study  # noqa: E402
from CNNSurvivalLib.report.page import report_pdf  # noqa: E402

ANYWHERE = ("report.dcm", "curve.dcm")
WITH_HIGHDICOM = (*ANYWHERE, "tumour.dcm", "numbers.dcm", "map.dcm")
SHAPE = (14, 80, 90)


def has_highdicom():
    try:
        import highdicom  # noqa: F401
    except ImportError:
        return False
    return True


needs_highdicom = pytest.mark.skipif(not has_highdicom(), reason="needs highdicom")


def program(name):
    """A mark that skips a test where a program is absent."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"needs the program {name}, absent here")


@pytest.fixture(scope="module")
def tumour():
    """(hu, mask) of an uneven lump."""
    z, y, x = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * d for n, d in zip(SHAPE, maker.SPACING)], indexing="ij")
    mask = ((z / 0.8) ** 2 + y**2 + (x - 3) ** 2 + 4 * x <= 18.0**2).astype(np.uint8)
    noise = np.random.default_rng(5).normal(0, 12, SHAPE)
    return (np.where(mask, 40 + 0.9 * x - 0.4 * y, -850) + noise).astype(np.int16), mask


def predicted(hu, mask, bundle, matrix=None):
    matrix = maker.ijk_to_ras() if matrix is None else matrix
    return predict(hu, mask, matrix, bundle, input_warnings=("A warning with an ü.",))


def write(folder, ct, prediction, mask, matrix=None, **options):
    """write_dicom for a CT's files; (what it gives, file name -> dataset, what it was given)."""
    matrix = maker.ijk_to_ras() if matrix is None else matrix
    png, pixels = maker.picture()
    pdf = report_pdf(prediction, {"segment": "GTVp"})
    risk = on_ct_grid(occlusion_maps(prediction, create_engine("numpy", prediction.bundle), 28, 28), prediction,
                      mask.shape, matrix)  # fmt: skip
    tumour = objects.Tumour(mask, matrix, options.pop("name", "GTVp"), *options.pop("seg", ()))
    done = objects.write_dicom(
        prediction, read_study(ct), tumour, folder, **{"report": pdf, "curve": png, "risk_map": risk, **options}
    )
    found = {path.name: pydicom.dcmread(path) for path in done.paths}
    return SimpleNamespace(done=done, found=found, pdf=pdf, pixels=pixels, risk=risk)


@pytest.fixture
def case(tmp_path, tumour, tiny_bundle):
    hu, mask = tumour
    ct = maker.write_ct(tmp_path / "ct", hu)
    prediction = predicted(hu, mask, tiny_bundle)
    return SimpleNamespace(ct=ct, prediction=prediction, hu=hu, mask=mask, bundle=tiny_bundle, folder=tmp_path / "out")


@pytest.fixture
def written(case):
    return write(case.folder, case.ct, case.prediction, case.mask)


# --- In the study of the CT -------------------------------------------------------------------------------------------


def test_the_objects_are_of_the_same_patient_and_study_and_refer_to_the_ct(case, written):
    assert set(written.found) == set(WITH_HIGHDICOM if has_highdicom() else ANYWHERE)
    source = [pydicom.dcmread(path) for path in case.ct]
    series = {source[0].SeriesInstanceUID, *(each.SeriesInstanceUID for each in written.found.values())}
    assert len(series) == len(written.found) + 1, "a series of its own each"
    assert len({each.SOPInstanceUID for each in written.found.values()}) == len(written.found)
    for name, found in written.found.items():
        for keyword in maker.ABOUT:
            assert found[keyword].value == source[0][keyword].value, (name, keyword)
        assert found.StudyInstanceUID == source[0].StudyInstanceUID
        assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID
        assert "research use only" in found.SeriesDescription and len(found.SeriesDescription) <= 64
        if name != "numbers.dcm":
            assert found.ContentQualification == "RESEARCH" and found.BurnedInAnnotation == "NO", name
        said = [case.bundle.sha256, f"model {case.bundle.id}", f"population {case.prediction.population.name}"]
        assert set(said) < set(found.SoftwareVersions), name
        assert "GTVp" in found.SeriesDescription
    uids = [each.SOPInstanceUID for each in source]
    assert [item.ReferencedSOPInstanceUID for item in written.found["report.dcm"].SourceInstanceSequence] == uids
    assert [item.ReferencedSOPInstanceUID for item in written.found["curve.dcm"].SourceImageSequence] == uids


def test_the_report_and_the_curve_come_out_as_they_went_in(written):
    report, curve = (written.found[name] for name in ANYWHERE)
    assert report.EncapsulatedDocument[: report.EncapsulatedDocumentLength] == written.pdf
    assert len(report.EncapsulatedDocument) - len(written.pdf) < 2
    shape = (curve.Rows, curve.Columns, curve.SamplesPerPixel)
    pixels = np.frombuffer(curve.PixelData, np.uint8)[: written.pixels.size].reshape(shape)
    assert np.array_equal(pixels, written.pixels) and curve.PhotometricInterpretation == "RGB"


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3), (7, 9, 4)], ids=["grey", "colour", "transparent"])
def test_a_picture_is_put_on_white(shape):
    png, pixels = maker.picture(shape)
    found = pixels_of(png).astype(float)
    expected = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels[..., :3]
    if shape[-1] == 4:
        opacity = pixels[..., 3:] / 255
        expected = pixels[..., :3] * opacity + 255 * (1 - opacity)
    assert found.shape == (7, 9, 3) and np.abs(found - expected).max() <= 0.5


def test_a_name_on_the_page_is_declared(case):
    found = write(case.folder, case.ct, case.prediction, case.mask, named=True).found
    assert found["report.dcm"].BurnedInAnnotation == "YES" and found["curve.dcm"].BurnedInAnnotation == "NO"


@pytest.mark.parametrize("keyword", sorted({*REQUIRED, "SliceThickness", "SeriesNumber"} - {"StudyInstanceUID"}))
def test_what_the_source_lacks_is_there_and_empty(tmp_path, case, keyword):
    ct = maker.write_ct(tmp_path / "lacking", case.hu, without=[keyword])
    found = write(case.folder, ct, case.prediction, case.mask).found
    for name, each in found.items():
        if keyword in REQUIRED:
            assert keyword in each and not each[keyword].value, name
    assert len(found) == (5 if has_highdicom() else 2)


def test_all_that_may_be_lacking_at_once(tmp_path, case):
    lacking = [*(set(REQUIRED) - {"StudyInstanceUID"}), "SpecificCharacterSet", "StudyDescription", "PatientAge"]
    ct = maker.write_ct(tmp_path / "lacking", case.hu, without=lacking)
    assert len(write(case.folder, ct, case.prediction, case.mask).found) == (5 if has_highdicom() else 2)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_source_without_uids_is_refused(tmp_path, case, keyword):
    ct = maker.write_ct(tmp_path / "lacking", case.hu, without=[keyword])
    with pytest.raises(CNNSurvivalError, match="do not say to which study and series they belong"):
        read_study(ct)
    with pytest.raises(CNNSurvivalError, match="do not say"):
        read_study([])


def test_a_file_that_is_gone_is_named(tmp_path, case):
    case.ct[3].unlink()
    with pytest.raises(CNNSurvivalError, match="003.dcm cannot be read"):
        read_study(case.ct)


def changed(path, **values):
    """The file again, with other values."""
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_ct_of_several_patients_or_studies_is_refused(case, keyword):
    for path in case.ct[7:]:
        changed(path, **{keyword: "1.2.3"})
    with pytest.raises(CNNSurvivalError, match=f"{keyword} is not the same in all.*wrong patient") as raised:
        read_study(case.ct)
    assert "Muster" not in str(raised.value) and "4711" not in str(raised.value)


def test_more_of_the_patient_than_joining_needs_is_not_copied(tmp_path, case):
    more = {"PatientComments": "Lives at Hauptstrasse 5", "EthnicGroup": "Unsaid", "OtherPatientNames": "Maier^E",
            "PhysiciansOfRecord": "Chief^Big", "NameOfPhysiciansReadingStudy": "Reader^Big"}  # fmt: skip
    ct = maker.write_ct(tmp_path / "more", case.hu, **more)
    for name, each in write(case.folder, ct, case.prediction, case.mask).found.items():
        assert not set(more) & set(each.dir()), name
    written = b"".join(path.read_bytes() for path in case.folder.iterdir())
    assert not any(value.encode() in written for value in more.values())


def test_long_texts_are_cut_and_times_are_of_the_zone_of_the_ct(tmp_path, case):
    how, what = "Basic profile, " * 6, "Thorax " * 10
    ct = maker.write_ct(tmp_path / "long", case.hu, PatientIdentityRemoved="YES", DeidentificationMethod=how,
                        StudyDescription=what, TimezoneOffsetFromUTC="+1345")  # fmt: skip
    for each in write(case.folder, ct, case.prediction, case.mask).found.values():
        assert each.DeidentificationMethod == how[:64].strip() and each.StudyDescription == what[:64].strip()
        assert each.TimezoneOffsetFromUTC == "+1345"
        there = datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=13, minutes=45)))
        said = datetime.datetime.strptime(each.ContentDate + each.ContentTime[:6], "%Y%m%d%H%M%S")
        assert abs(there.replace(tzinfo=None) - said) < datetime.timedelta(minutes=20)


def test_a_name_that_dicom_would_split_stays_one_value(tmp_path, case):
    found = write(case.folder, case.ct, case.prediction, case.mask, name="GTV\\left " + "x" * 80).found
    for name, each in found.items():
        assert "GTV left x" in each.SeriesDescription and len(each.SeriesDescription) <= 64, name
        assert each.SeriesDescription.endswith("(research use only)")


@pytest.mark.parametrize(
    "name, number, expected",
    [("Muster^Erika", "4711", "Muster, Erika (4711)"), ("", "4711", "4711"), ("", "", ""),
     ("Yamada^Tarou=山田^太郎", "", "Yamada, Tarou")],
)  # fmt: skip
def test_the_patient_for_a_page(tmp_path, case, name, number, expected):
    ct = maker.write_ct(tmp_path / "named", case.hu, "ISO_IR 192", PatientName=name, PatientID=number)
    assert read_study(ct).patient == expected


NO_DATE = "61d6b371-5759-36d4-a66b-402c0333d1a9"  # as a de-identified CT of the shared data has it


@pytest.mark.filterwarnings("ignore:The PN component length")  # pydicom's, when this test reads
def test_dates_and_codes_that_are_none_are_left_out_and_names_are_not(tmp_path, case):
    wrong = {"StudyDate": NO_DATE, "PatientBirthDate": "19501301", "PatientSex": NO_DATE, "PatientAge": "old",
             "StudyTime": "99", "PatientWeight": "heavy", "PatientName": "^" + "x" * 70, "PatientID": "#1"}  # fmt: skip
    ct = maker.write_ct(tmp_path / "wrong", case.hu, **wrong)
    for each in write(case.folder, ct, case.prediction, case.mask).found.values():
        for keyword in ("StudyDate", "PatientBirthDate", "PatientSex", "StudyTime"):
            assert keyword in each and not each[keyword].value
        assert "PatientAge" not in each and "PatientWeight" not in each
        assert (str(each.PatientName), each.PatientID) == (wrong["PatientName"], wrong["PatientID"])


NAMES = {
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 192": "Müller^Jörg=王^小东",
    "ISO_IR 144": "Люкceмбypг",
    "GB18030": "Wang^XiaoDong=王^小东",
    r"\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    r"\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
}


@pytest.mark.parametrize("charset", NAMES, ids=lambda text: text.strip("\\").replace(" ", "-"))
def test_names_of_every_alphabet_stay(tmp_path, case, charset):
    name = NAMES[charset]
    ct = maker.write_ct(tmp_path / "named", case.hu, charset.split("\\"), PatientName=name)
    assert str(pydicom.dcmread(ct[0]).PatientName) == name
    written = write(case.folder, ct, case.prediction, case.mask, name="Lungentumor rechts, größer")
    for path, each in written.found.items():
        assert str(each.PatientName) == name, path
        assert each.SpecificCharacterSet == "ISO_IR 192"


def test_an_umlaut_without_a_character_set_is_read_as_viewers_read_it(tmp_path, case):
    name = "Müller^Jörg".encode("latin-1")
    ct = maker.write_ct(tmp_path / "named", case.hu, without=["SpecificCharacterSet"], PatientName=name)
    for each in write(case.folder, ct, case.prediction, case.mask).found.values():
        assert str(each.PatientName) == "Müller^Jörg"


def test_sequences_of_the_patient_are_copied_with_their_texts(tmp_path, case):
    item = pydicom.Dataset()
    item.PatientID, item.TypeOfPatientID, item.IssuerOfPatientID = "X-9", "TEXT", "Spital Zürich"
    ct = maker.write_ct(tmp_path / "more", case.hu, OtherPatientIDsSequence=[item], PatientIdentityRemoved="YES")
    for each in write(case.folder, ct, case.prediction, case.mask).found.values():
        assert each.OtherPatientIDsSequence[0].IssuerOfPatientID == "Spital Zürich"
        assert each.PatientIdentityRemoved == "YES" and each.DeidentificationMethod


def test_no_log_keeps_what_the_source_says(tmp_path, case, caplog):
    """Slicer's log keeps what the libraries log, and people post it."""
    ct = maker.write_ct(tmp_path / "wrong", case.hu, PatientBirthDate="Zq7Secret", PatientSex="zq7secret")
    with caplog.at_level(logging.DEBUG):
        caplog.clear()
        objects.write_dicom(
            case.prediction, read_study(ct), objects.Tumour(case.mask, maker.ijk_to_ras(), "GTVp"), case.folder,
            report=b"%PDF-", curve=maker.picture()[0],
        )  # fmt: skip
    assert "zq7secret" not in caplog.text.lower() and "Muster" not in caplog.text


# --- What is left out, and why ----------------------------------------------------------------------------------------


def test_without_highdicom_two_objects_are_written_and_the_rest_is_told(case, written, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    again = write(case.folder, case.ct, case.prediction, case.mask)
    assert [note for note in again.done.notes if "highdicom" in note]
    # Those of the earlier run are of another prediction, so they are gone.
    assert {path.name for path in case.folder.iterdir()} == set(ANYWHERE)


@needs_highdicom
@pytest.mark.parametrize("how", ["shifted", "scaled", "no frame of reference", "other pixels"])
def test_a_ct_that_was_moved_gets_no_places(tmp_path, case, how):
    matrix, mask, ct = maker.ijk_to_ras(), case.mask, case.ct
    if how == "shifted":
        matrix[0, 3] += 2
    elif how == "scaled":
        matrix[:3, :3] *= 1.02
    elif how == "no frame of reference":
        ct = maker.write_ct(tmp_path / "lacking", case.hu, without=["FrameOfReferenceUID"])
    else:
        mask = np.pad(mask, ((0, 0), (0, 2), (0, 0)))
    done = write(case.folder, ct, case.prediction, mask, matrix, risk_map=None).done
    # The numbers need no place; they refer to the images in place of the segment.
    assert {path.name for path in done.paths} == {*ANYWHERE, "numbers.dcm"}
    expected = "FrameOfReferenceUID" if how == "no frame of reference" else "does not lie where its DICOM files say"
    assert expected in done.notes[0]
    sources = [item for item in items(pydicom.dcmread(case.folder / "numbers.dcm")) if item.ValueType == "IMAGE"]
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in ct}
    assert {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in sources} == uids


@needs_highdicom
def test_frames_of_reference_that_differ_leave_no_places(case):
    for path in case.ct[7:]:
        changed(path, FrameOfReferenceUID="1.2.3")
    done = write(case.folder, case.ct, case.prediction, case.mask).done
    assert {path.name for path in done.paths} == {*ANYWHERE, "numbers.dcm"} and "frame of reference" in done.notes[0]


@pytest.mark.parametrize("before", ["nothing", "an earlier run"])
def test_where_the_files_beside_them_fail_none_is_left(case, written, before):
    folder = case.folder if before == "an earlier run" else case.folder / "new"
    earlier = {path: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None
    made = objects.Objects({name: b"new" for name in ANYWHERE}, [])
    with pytest.raises(OSError), objects.placed(made, folder) as placed:
        assert [path.name for path in placed.paths] == list(ANYWHERE)
        raise OSError("the disk is full")
    assert folder.exists() == (before == "an earlier run")
    assert earlier is None or earlier == {path: path.read_bytes() for path in folder.iterdir()}
    with objects.placed(made, folder):
        pass
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made.files


def test_nothing_is_written_where_an_object_cannot_be_made(case, monkeypatch):
    def fail(*arguments):
        raise ValueError("a fault")

    monkeypatch.setattr(objects, "secondary_capture", fail)
    with pytest.raises(ValueError):
        write(case.folder, case.ct, case.prediction, case.mask)
    assert not case.folder.exists()


# --- The tumour, the numbers and the map ------------------------------------------------------------------------------


def stacked(dataset, matrix, shape):
    """The frames of a multi-frame object on a grid [k, j, i], by their own positions; computed here, with pydicom."""
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    volume = np.zeros(shape, pixels.dtype)
    for frame, own in zip(pixels, dataset.PerFrameFunctionalGroupsSequence):
        place = np.array(own.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        i, j, k = to_index[:3, :3] @ place + to_index[:3, 3]
        assert abs(i) < 0.01 and abs(j) < 0.01 and abs(k - round(k)) < 0.01
        volume[round(k)] = frame
    return volume


TILTED = ((1.0, 0.0, 0.0), (0.0, np.cos(0.3), np.sin(0.3)), (0.0, 0.0, 1.0))  # a tilted gantry: a sheared grid
TURNED = ((0.6, 0.8, 0.0), (0.0, 0.0, -1.0), (-0.8, 0.6, 0.0))  # slices that stand upright


@needs_highdicom
@pytest.mark.parametrize("axes", [maker.UPRIGHT, TILTED, TURNED], ids=["axial", "tilted", "turned"])
def test_tumour_and_map_lie_where_they_were(tmp_path, tumour, tiny_bundle, axes):
    hu, mask = tumour
    axes = tuple(tuple(float(v) for v in np.round(axis, 6)) for axis in axes)
    matrix = maker.ijk_to_ras(axes)
    ct = maker.write_ct(tmp_path / "ct", hu, axes=axes)
    prediction = predicted(hu, mask, tiny_bundle, matrix)
    written = write(tmp_path / "out", ct, prediction, mask, matrix)
    assert not written.done.notes
    assert np.array_equal(stacked(written.found["tumour.dcm"], matrix, mask.shape), mask)
    assert np.array_equal(stacked(written.found["map.dcm"], matrix, mask.shape), written.risk)
    uids = {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in ct}
    for own in written.found["tumour.dcm"].PerFrameFunctionalGroupsSequence:
        images = own.DerivationImageSequence[0].SourceImageSequence
        assert {image.ReferencedSOPInstanceUID for image in images} <= uids and len(images) == 1


@needs_highdicom
def test_the_map_has_every_plane_from_the_first_to_the_last(case):
    risk = np.zeros(SHAPE, np.float32)
    for plane, value in ((3, 2.0), (8, -1.5)):
        risk[plane] = np.where(case.mask[plane], value, 0)
    found = write(case.folder, case.ct, case.prediction, case.mask, risk_map=risk).found["map.dcm"]
    places = [own.PlanePositionSequence[0].ImagePositionPatient[2] for own in found.PerFrameFunctionalGroupsSequence]
    assert np.allclose(np.diff(sorted(places)), 3) and len(places) == 6
    assert np.array_equal(stacked(found, maker.ijk_to_ras(), SHAPE), risk)


@needs_highdicom
@pytest.mark.parametrize("part, region", [(None, "Entire body"), ("CHEST", "Chest"), ("KNEE", "Entire body")])
def test_the_map_says_of_which_region_and_quantity_it_is(tmp_path, case, part, region):
    ct = maker.write_ct(tmp_path / "part", case.hu, **({"BodyPartExamined": part} if part else {}))
    found = write(case.folder, ct, case.prediction, case.mask).found["map.dcm"]
    anatomy = found.SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0]
    assert anatomy.AnatomicRegionSequence[0].CodeMeaning == region and "Laterality" not in found
    values = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert values.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "RISKMAP"


@needs_highdicom
@program("paramap2itkimage")
def test_dcmqi_reads_the_map(tmp_path, case):
    """As Slicer's plugin for Parametric Maps does."""
    import SimpleITK as sitk

    written = write(case.folder, case.ct, case.prediction, case.mask)
    path, out = case.folder / "map.dcm", tmp_path / "read"
    out.mkdir()
    code, said = output_of("paramap2itkimage", "--inputDICOM", path, "--outputDirectory", out, "--outputType", "nrrd")
    assert code == 0, said
    image = sitk.ReadImage(str(next(out.glob("*.nrrd"))))
    array, planes = sitk.GetArrayFromImage(image), np.flatnonzero(written.risk.any(axis=(1, 2)))
    assert np.array_equal(array, written.risk[planes[0] : planes[-1] + 1])
    assert np.allclose(image.GetOrigin(), np.array(maker.ORIGIN) + [0, 0, 3 * planes[0]])


@needs_highdicom
def test_what_was_compressed_with_loss_stays_so(tmp_path, case):
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "10",
             "LossyImageCompressionMethod": "ISO_10918_1"}  # fmt: skip
    found = write(case.folder, maker.write_ct(tmp_path / "lossy", case.hu, **lossy), case.prediction, case.mask).found
    assert (found["tumour.dcm"].LossyImageCompression, found["tumour.dcm"].LossyImageCompressionRatio) == ("01", 10)
    assert found["map.dcm"].LossyImageCompression == "01"


@needs_highdicom
def test_a_ct_without_thickness_gives_that_of_its_grid(tmp_path, case):
    ct = maker.write_ct(tmp_path / "thin", case.hu, without=["SliceThickness"])
    found = write(case.folder, ct, case.prediction, case.mask).found
    for name in ("tumour.dcm", "map.dcm"):
        measures = found[name].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SliceThickness == 3, name


@needs_highdicom
def test_how_the_contour_was_drawn_is_not_claimed(written):
    (segment,) = written.found["tumour.dcm"].SegmentSequence
    assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC" and "not known" in segment.SegmentAlgorithmName


@needs_highdicom
def test_the_tumour_is_read_as_it_was_written(case, written):
    from CNNSurvivalLib.io.read import read_case

    read = read_case(case.ct[0].parent, case.folder / "tumour.dcm")
    assert np.array_equal(read.mask, case.mask) and read.segment_name == "GTVp" and not read.warnings
    again = predict(read.hu, read.mask, read.ijk_to_ras, case.bundle)
    assert np.allclose(again.survival, case.prediction.survival, atol=1e-9)


@needs_highdicom
def test_a_tumour_on_planes_that_were_filled_in_lies_between_the_slices(tmp_path, case):
    from CNNSurvivalLib.io.read import read_case

    full = write(case.folder, case.ct, case.prediction, case.mask)
    gone = [5, 6]
    ct = maker.write_ct(tmp_path / "gap", case.hu, left_out=gone, **_uids(case.ct[0]))
    read = read_case(ct[0].parent, case.folder / "tumour.dcm")
    assert read.mask.shape == case.mask.shape and any("interpolated" in text for text in read.warnings)
    again = write(tmp_path / "again", ct, case.prediction, read.mask, read.ijk_to_ras)
    assert not again.done.notes
    assert np.array_equal(stacked(again.found["tumour.dcm"], read.ijk_to_ras, case.mask.shape), read.mask)
    # The planes that lie on slices refer to them, the two between do not.
    place_of = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path).ImagePositionPatient for path in ct}
    for name in ("tumour.dcm", "map.dcm"):
        bare = 0
        for own in again.found[name].PerFrameFunctionalGroupsSequence:
            if not own.DerivationImageSequence:
                bare += 1
                continue
            (image,) = own.DerivationImageSequence[0].SourceImageSequence
            place = own.PlanePositionSequence[0].ImagePositionPatient
            assert np.allclose(place_of[image.ReferencedSOPInstanceUID], place, atol=0.01)
        assert bare == 2, name
    if shutil.which("dciodvfy"):
        said = [output_of("dciodvfy", "-new", path)[1] for path in again.done.paths]
        assert not [line for text in said for line in text.splitlines() if line.startswith("Error")]
    assert np.array_equal(stacked(full.found["tumour.dcm"], read.ijk_to_ras, case.mask.shape), case.mask)


def _uids(path):
    source = pydicom.dcmread(path)
    return {key: source[key].value for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}


@needs_highdicom
def test_a_multi_frame_ct(tmp_path, case):
    import highdicom

    slices = [pydicom.dcmread(path) for path in case.ct]
    uids = {"series_instance_uid": highdicom.UID(), "sop_instance_uid": highdicom.UID()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ct in slices:
            ct.RescaleType, ct.AcquisitionNumber, ct.PositionReferenceIndicator = "HU", 1, ""
            ct.PatientPosition, ct.Manufacturer, ct.KVP = "HFS", "M", 120
        enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(slices, series_number=2, instance_number=1, **uids)
    enhanced.save_as(tmp_path / "enhanced.dcm")
    written = write(case.folder, [tmp_path / "enhanced.dcm"], case.prediction, case.mask)
    assert not written.done.notes
    assert np.array_equal(stacked(written.found["tumour.dcm"], maker.ijk_to_ras(), SHAPE), case.mask)
    assert written.found["report.dcm"].SourceInstanceSequence[0].ReferencedSOPInstanceUID == uids["sop_instance_uid"]


def items(dataset):
    """Every content item below a dataset, each with its parent's."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from items(item)


def meaning(item):
    return item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""


@needs_highdicom
def test_the_numbers_are_those_of_the_prediction(case, written):
    import highdicom

    p, report = case.prediction, highdicom.sr.srread(case.folder / "numbers.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    values = {m.name.meaning: (m.value, m.unit.value) for group in groups for m in group.get_measurements()}
    for months, survival in zip(p.horizons_months, p.horizon_survival):
        value, unit = values.pop(f"Predicted probability to be alive at {months} months")
        assert value == round(100 * survival, 1) and unit == "%"
    assert values.pop("Percentile of the risk in the reference cohort") == (round(p.risk_percentile, 1), "%")
    assert values.pop("Volume") == (round(p.volume_cc, 1), "cm3")
    if p.median_survival_days is not None:
        median = values.pop("Predicted median survival")
        assert median == (round(p.median_survival_days / 30.4375, 1), "mo")
    (mean,) = values.values()
    assert mean == (round(p.rmst_days / 30.4375, 1), "mo")
    seg = written.found["tumour.dcm"]
    assert {group.reference_type.meaning for group in groups} == {"Referenced Segment"}
    for segment in [item for item in items(report) if meaning(item) == "Referenced Segment"]:
        reference = segment.ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == seg.SOPInstanceUID and reference.ReferencedSegmentNumber == 1
    # One lesion has one tracking UID, in whatever object.
    assert {group.tracking_uid for group in groups} == {seg.SegmentSequence[0].TrackingUID}


@needs_highdicom
def test_the_report_says_what_computed_it_and_what_to_beware_of(case, written):
    texts = [(meaning(item), item.TextValue) for item in items(written.found["numbers.dcm"]) if "TextValue" in item]
    comments = [text for name, text in texts if name == "Comment"]
    assert comments[0] == RESEARCH_USE_ONLY
    for warning in case.prediction.warnings:
        assert f"Warning: {warning}" in comments
    assert ("Algorithm Name", case.bundle.info["name"]) in texts
    assert ("Algorithm Version", case.bundle.info["version"]) in texts
    assert len([text for name, text in texts if name == "Algorithm Parameters" and case.bundle.sha256 in text]) == 1
    reference = case.prediction.population.reference_label
    assert ("Algorithm Parameters", f"reference cohort: {reference}") in texts
    volume = [g for g in written.found["numbers.dcm"].ContentSequence[-1].ContentSequence][-1]
    assert "Volume" in {meaning(i) for i in items(volume)} and "Algorithm Name" not in {
        meaning(i) for i in items(volume)
    }
    names = [item.ConceptNameCodeSequence[0] for item in items(written.found["numbers.dcm"]) if item.ValueType == "NUM"]
    within = round(case.prediction.rmst_horizon_days / 30.4375)
    assert f"RMST{within}M" in {name.CodeValue for name in names}, "a code keeps its meaning whatever the model"
    assert "Muster" not in " ".join(text for _name, text in texts)


@needs_highdicom
def test_a_tumour_that_is_a_seg_already_is_referred_to_and_not_written_again(tmp_path, case, written):
    seg = written.found["tumour.dcm"]
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.999"  # drawn on another series of the study
    again = write(tmp_path / "again", case.ct, case.prediction, case.mask, seg=(seg, 1))
    assert set(again.found) == {"report.dcm", "curve.dcm", "numbers.dcm", "map.dcm"}
    segment = [item for item in items(again.found["numbers.dcm"]) if meaning(item) == "Referenced Segment"][0]
    assert segment.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID
    uids = {meaning(item): item.UID for item in items(again.found["numbers.dcm"]) if item.ValueType == "UIDREF"}
    assert uids["Source Series for Segmentation"] == "1.2.3.999"
    assert uids["Tracking Unique Identifier"] == seg.SegmentSequence[0].TrackingUID
    first = {meaning(item): item.UID for item in items(written.found["numbers.dcm"]) if item.ValueType == "UIDREF"}
    assert first["Device Observer UID"] == uids["Device Observer UID"]


# --- What other programs say ------------------------------------------------------------------------------------------


def output_of(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", errors="replace")


SOURCES = {
    "usual": {},
    "poor": {
        "without": [
            *(set(REQUIRED) - {"StudyInstanceUID"}),
            "StudyDescription",
            "PatientAge",
            "SeriesNumber",
            "SliceThickness",
        ]
    },
    "lossy": {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "10",
        "BodyPartExamined": "CHEST",
        "LossyImageCompressionMethod": "ISO_10918_1",
        "TimezoneOffsetFromUTC": "+0900",
    },
    "wrong": {"StudyDate": NO_DATE, "PatientBirthDate": NO_DATE, "PatientSex": NO_DATE, "PatientAge": "old"},
    "japanese": {"charset": ["", "ISO 2022 IR 87"], "PatientName": NAMES[r"\ISO 2022 IR 87"]},
}


@program("dciodvfy")
@pytest.mark.parametrize("source", SOURCES)
def test_dciodvfy_finds_no_error(tmp_path, case, source):
    ct = maker.write_ct(tmp_path / "source", case.hu, **SOURCES[source])
    for path in write(case.folder, ct, case.prediction, case.mask).done.paths:
        _code, said = output_of("dciodvfy", "-new", path)
        assert not [line for line in said.splitlines() if line.startswith("Error")], f"{path.name}: {said}"


@program("dcm2pdf")
def test_dcmtk_takes_out_the_report(case, written):
    assert output_of("dcm2pdf", case.folder / "report.dcm", case.folder / "out.pdf")[0] == 0
    assert (case.folder / "out.pdf").read_bytes() == written.pdf


@needs_highdicom
@program("dsrdump")
def test_dcmtk_reads_the_numbers(case, written):
    code, said = output_of("dsrdump", "+Pl", case.folder / "numbers.dcm")
    assert code == 0 and RESEARCH_USE_ONLY in said and "Predicted probability to be alive at 12 months" in said


@pytest.fixture
def orthanc(tmp_path):
    """The port of an archive on this computer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tmp_path / "orthanc"
    place.mkdir()
    settings = {"StorageDirectory": str(place), "IndexDirectory": str(place), "HttpServerEnabled": False,
                "DicomPort": port, "DicomAet": "ORTHANC", "DicomAlwaysAllowFind": True, "Plugins": []}  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    server = shutil.which("Orthanc")
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([server, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _try in range(120):
            if output_of("echoscu", "-aec", "ORTHANC", "127.0.0.1", port)[0] == 0:
                break
            assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
            time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait()


@program("Orthanc")
@program("storescu")
@program("findscu")
@pytest.mark.parametrize("source", SOURCES)
def test_an_archive_keeps_ct_and_objects_as_one_study(tmp_path, case, orthanc, source):
    ct = maker.write_ct(tmp_path / "source", case.hu, **SOURCES[source])
    written = write(case.folder, ct, case.prediction, case.mask)
    for paths in (ct, written.done.paths):
        code, said = output_of("storescu", "-R", "-aec", "ORTHANC", "127.0.0.1", orthanc, *paths)
        assert code == 0, said
    study = pydicom.dcmread(ct[0]).StudyInstanceUID
    answers = found_series(tmp_path / "found", orthanc, study)
    modalities = sorted(answer.Modality for answer in answers)
    expected = ["CT", "DOC", "OT", *(["OT", "SEG", "SR"] if has_highdicom() else [])]
    assert modalities == expected
    assert {str(answer.SeriesInstanceUID) for answer in answers} == {
        str(pydicom.dcmread(path).SeriesInstanceUID) for path in (ct[0], *written.done.paths)
    }


def found_series(folder, port, study):
    """The archive's answers to a query for the series of a study, one dataset each."""
    folder.mkdir()
    code, said = output_of(
        "findscu", "-aec", "ORTHANC", "-S", "-X", "-od", folder, "-k", "QueryRetrieveLevel=SERIES", "-k",
        f"StudyInstanceUID={study}", "-k", "SeriesInstanceUID", "-k", "Modality", "127.0.0.1", port,
    )  # fmt: skip
    assert code == 0, said
    return [pydicom.dcmread(io.BytesIO(path.read_bytes()), force=True) for path in sorted(folder.iterdir())]
