"""CT and mask from files: what is read is what was drawn, and each mistake gets its sentence."""

import itertools
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    generate_uid,
)

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.mrml.inputs import words_of_the_panel
from CNNSurvivalLib.slices import Preprocessing, extract_slices
from dicom_files import highdicom, save

sitk = pytest.importorskip("SimpleITK")

from CNNSurvivalLib.io.read import find_segments, read_case  # noqa: E402

SHAPE = (12, 40, 48)  # k, j, i
SPACING = (1.25, 1.5, 3.0)  # i, j, k
ORIGIN = (-30.0, -20.0, 100.0)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
STUDY, FRAME = generate_uid(), generate_uid()
PATIENT = "Doe^Jane"


# --- Making files -------------------------------------------------------------------------------------------


def affine(spacing=SPACING, origin=ORIGIN, rotation=None):
    matrix = np.diag([*spacing, 1.0])
    if rotation is not None:
        matrix[:3, :3] = rotation @ matrix[:3, :3]
    matrix[:3, 3] = origin
    return matrix


def turned(degrees, axis=0):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    a, b = [n for n in range(3) if n != axis]
    matrix = np.eye(3)
    matrix[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    return matrix


def position(matrix, index):
    """LPS of voxel positions [n, 3] (i, j, k)."""
    return np.asarray(index, float) @ matrix[:3, :3].T + matrix[:3, 3]


def some_hu(shape=SHAPE, seed=0):
    """Each slice has a level of its own, 10 HU apart: so a voxel tells from which slice it comes."""
    noise = np.random.default_rng(seed).integers(-3, 4, shape)
    return (noise + 10 * np.arange(shape[0])[:, None, None] - 500).astype(np.int16)


def box_mask(shape=SHAPE):
    mask = np.zeros(shape, np.uint8)
    mask[4:9, 10:25, 12:30] = 1
    return mask


def dataset(path, sop_class, modality, **values):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = PATIENT, "HOSPITAL-NUMBER-4711", "", ""
    ds.StudyInstanceUID, ds.StudyID, ds.StudyDate, ds.StudyTime, ds.AccessionNumber = STUDY, "1", "", "", ""
    ds.ReferringPhysicianName, ds.Manufacturer, ds.Modality, ds.SeriesNumber = "", "", modality, 1
    for name, value in values.items():
        setattr(ds, name, value)
    save(ds, path)
    return ds


def write_series(folder, hu=None, matrix=None, leave_out=(), modality="CT", uid=None, places=None, shear=0.0, **values):
    """A DICOM series; file names are not in slice order. Returns its SeriesInstanceUID."""
    hu, matrix, uid = some_hu() if hu is None else hu, affine() if matrix is None else matrix, uid or generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    length = np.linalg.norm(matrix[:3, :3], axis=0)
    for k in range(len(hu)):
        if k in leave_out:
            continue
        place = position(matrix, [0, shear * k, k if places is None else places[k] / length[2]])
        dataset(
            folder / f"{(7 * k) % 101:03d}_{uid[-6:]}.dcm",
            CTImageStorage if modality == "CT" else MRImageStorage,
            modality,
            **{
                "SeriesInstanceUID": uid,
                "FrameOfReferenceUID": FRAME,
                "SeriesDescription": "Chest 3 mm",
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
                "ImagePositionPatient": [f"{v:.6g}" for v in place],
                "ImageOrientationPatient": [f"{v:.9g}" for v in (matrix[:3, :2] / length[:2]).T.ravel()],
                "PixelSpacing": [length[1], length[0]],
                "SliceThickness": length[2],
                "InstanceNumber": k + 1,
                "PositionReferenceIndicator": "",
                "Rows": hu.shape[1],
                "Columns": hu.shape[2],
                "SamplesPerPixel": 1,
                "PhotometricInterpretation": "MONOCHROME2",
                "BitsAllocated": 16,
                "BitsStored": 16,
                "HighBit": 15,
                "PixelRepresentation": 0,
                "RescaleIntercept": -1024,
                "RescaleSlope": 1,
                "PixelData": (hu[k] + 1024).astype("<u2").tobytes(),
            }
            | values,
        )
    return uid


def write_rtstruct(path, structures, series=None, frame=FRAME, kinds=None):
    """structures: {name: [contours [n, 3] in LPS]}."""
    rois, contours = [], []
    for number, (name, loops) in enumerate(structures.items(), 1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "MANUAL"
        if frame:
            roi.ReferencedFrameOfReferenceUID = frame
        rois.append(roi)
        drawn = Dataset()
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for loop in loops:
            item = Dataset()
            item.ContourGeometricType = "POINT" if len(loop) == 1 else "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(loop)
            item.ContourData = [f"{v:.4f}" for v in np.ravel(loop)]
            drawn.ContourSequence.append(item)
        contours.append(drawn)
    values = {"StructureSetLabel": "plan", "SeriesInstanceUID": generate_uid()}
    if series:
        item, study, reference = Dataset(), Dataset(), Dataset()
        item.SeriesInstanceUID, item.ContourImageSequence = series, []
        study.RTReferencedSeriesSequence = [item]
        reference.FrameOfReferenceUID, reference.RTReferencedStudySequence = frame, [study]
        values["ReferencedFrameOfReferenceSequence"] = [reference]
    dataset(
        path, RTStructureSetStorage, "RTSTRUCT", StructureSetROISequence=rois, ROIContourSequence=contours, **values
    )
    return path


def write_seg(path, folder, masks, kind="BINARY", drop_empty=True, uid=None):
    """masks: {label: [k, j, i]}, on the slices of the series in the folder."""
    sources = [pydicom.dcmread(p) for p in sorted(folder.glob("*.dcm"))]
    sources = sorted(
        (s for s in sources if uid in (None, s.SeriesInstanceUID)), key=lambda s: float(s.ImagePositionPatient[2])
    )
    hd = highdicom()
    code = hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")
    seg = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=np.stack(list(masks.values()), axis=-1),
        segmentation_type=kind,
        segment_descriptions=[
            hd.seg.SegmentDescription(n, label, code, code, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
            for n, label in enumerate(masks, 1)
        ],
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="0",
        omit_empty_frames=drop_empty,
    )
    seg.save_as(path)
    return path


def write_image(path, array, matrix=None, vector=False, compressed=False, **header):
    matrix = affine() if matrix is None else matrix
    image = sitk.GetImageFromArray(array, isVector=vector)
    length = np.linalg.norm(matrix[:3, :3], axis=0)
    n = image.GetDimension()
    direction, spacing, origin = np.eye(n), np.ones(n), np.zeros(n)
    m = min(n, 3)
    direction[:m, :m], spacing[:m], origin[:m] = (matrix[:3, :3] / length)[:m, :m], length[:m], matrix[:m, 3]
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    for key, value in header.items():
        image.SetMetaData(key, str(value))
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path


def rectangle(matrix, k, i, j):
    """A contour at slice position k around pixel centres i[0]..i[1], j[0]..j[1] (edges half a pixel outside)."""
    (a, b), (c, d) = i, j
    corners = [(a - 0.5, c - 0.5), (b + 0.5, c - 0.5), (b + 0.5, d + 0.5), (a - 0.5, d + 0.5)]
    return position(matrix, [(x, y, k) for x, y in corners])


def circle(matrix, center, radius_mm, z, count=120):
    """A contour in LPS at height z."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([center[0] + radius_mm * np.cos(angle), center[1] + radius_mm * np.sin(angle), 0 * angle + z], 1)


@pytest.fixture
def ct(tmp_path):
    """(folder, SeriesInstanceUID) of a plain axial series."""
    folder = tmp_path / "ct"
    return folder, write_series(folder)


def sentence(*args, **kwargs):
    """What the user is told; one sentence or two, no name of the patient."""
    with pytest.raises(CNNSurvivalError) as error:
        read_case(*args, **kwargs)
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and "Doe" not in text and "HOSPITAL-NUMBER-4711" not in text
    return text


def only(warnings):
    assert len(warnings) == 1, warnings
    return warnings[0]


def as_ras(matrix):
    return LPS_TO_RAS @ matrix


# --- CT -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["nrrd", "nii.gz", "mha"])
@pytest.mark.parametrize("degrees", [0, 12])
def test_an_image_file_keeps_values_and_place(tmp_path, ending, degrees):
    matrix = affine(rotation=turned(degrees))
    image = write_image(tmp_path / f"ct.{ending}", some_hu(), matrix)
    mask = write_image(tmp_path / f"mask.{ending}", box_mask(), matrix)
    case = read_case(str(image), str(mask))
    assert np.array_equal(case.hu, some_hu()) and np.array_equal(case.mask, box_mask())
    assert np.allclose(case.ijk_to_ras, as_ras(matrix), atol=1e-4)
    assert case.warnings == () and case.mask.dtype == np.uint8 and case.segment_name == "1"


@pytest.mark.parametrize("rotation", [None, turned(12), turned(90), np.diag([-1.0, 1.0, -1.0])])
def test_a_dicom_series_keeps_values_and_place(tmp_path, rotation):
    matrix = affine(rotation=rotation)
    write_series(tmp_path / "ct", matrix=matrix)
    mask = write_image(tmp_path / "mask.nrrd", box_mask(), matrix)
    case = read_case(tmp_path / "ct", mask)
    assert case.hu.dtype == np.int16 and np.array_equal(case.hu, some_hu()) and np.array_equal(case.mask, box_mask())
    assert np.allclose(case.ijk_to_ras, as_ras(matrix), atol=1e-3) and case.warnings == ()


def test_one_file_of_a_series_stands_for_it(ct, tmp_path):
    mask = write_image(tmp_path / "mask.nrrd", box_mask())
    write_series(ct[0])
    file = next(p for p in ct[0].iterdir() if ct[1][-6:] in p.name)
    assert np.array_equal(read_case(file, mask).hu, some_hu())


def test_a_tilted_gantry_gives_a_sheared_volume(tmp_path):
    write_series(tmp_path / "ct", shear=0.8)
    truth = affine()
    truth[:3, 2] += 0.8 * truth[:3, 1]
    square = [position(truth, rectangle(np.eye(4), k, (12, 29), (10, 24))) for k in range(4, 9)]
    case = read_case(tmp_path / "ct", write_rtstruct(tmp_path / "rs.dcm", {"GTV": square}))
    assert np.allclose(case.ijk_to_ras, as_ras(truth), atol=1e-3)
    assert np.array_equal(case.mask, box_mask())


def test_an_enhanced_ct_has_all_slices_in_one_file(ct, tmp_path):
    slices = sorted((pydicom.dcmread(p) for p in ct[0].glob("*.dcm")), key=lambda ds: ds.InstanceNumber)
    uids = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}
    enhanced = highdicom().legacy.LegacyConvertedEnhancedCTImage(slices, series_number=2, instance_number=1, **uids)
    (tmp_path / "enhanced").mkdir()
    enhanced.save_as(tmp_path / "enhanced" / "ct.dcm")
    mask = write_image(tmp_path / "mask.nrrd", box_mask())
    case, plain = read_case(tmp_path / "enhanced", mask), read_case(ct[0], mask)
    assert case.hu.dtype == np.int16 and case.warnings == () and case.hu.shape == SHAPE
    assert inside_by_height(case) == inside_by_height(plain)


def inside_by_height(case):
    """{height in mm: mean HU inside the mask}, whichever way the slices are stored."""
    heights = case.ijk_to_ras[2, 3] + case.ijk_to_ras[2, 2] * np.arange(len(case.hu))
    return {round(h, 2): hu[m > 0].mean() for h, hu, m in zip(heights, case.hu, case.mask) if m.any()}


def test_a_missing_slice_is_named_and_the_rest_stays_in_place(tmp_path):
    write_series(tmp_path / "ct", leave_out=[5])
    case = read_case(tmp_path / "ct", write_image(tmp_path / "mask.nrrd", box_mask()))
    text = only(case.warnings)
    assert "lacks 1 slice" in text and "between 112.0 and 118.0 mm" in text
    assert np.allclose(case.ijk_to_ras, as_ras(affine()), atol=1e-3) and np.array_equal(case.mask, box_mask())
    kept = [k for k in range(12) if k != 5]
    assert np.array_equal(case.hu[kept], some_hu()[kept])
    assert np.abs(case.hu[5] - (some_hu()[4] + some_hu()[6]) / 2).max() <= 0.5


def test_unequal_spacing_is_named_and_the_slices_stay_in_place(tmp_path):
    places = np.cumsum([0, 3, 3, 3, 3, 3, 4.5, 4.5, 4.5, 4.5, 4.5, 4.5])
    hu = np.repeat(np.round(places * 10).astype(np.int16)[:, None, None], 40, 1).repeat(48, 2)
    write_series(tmp_path / "ct", hu=hu, places=places)
    case = read_case(tmp_path / "ct", write_image(tmp_path / "mask.nrrd", box_mask()))
    assert any("unequally spaced (3.00 to 4.50 mm" in text for text in case.warnings)
    heights = case.ijk_to_ras[2, 3] + case.ijk_to_ras[2, 2] * np.arange(len(case.hu))
    assert np.allclose(case.hu[:, 0, 0], (heights - 100) * 10, atol=1)
    assert heights[-1] == pytest.approx(100 + places[-1])


def test_positions_rounded_to_one_decimal_are_no_unequal_spacing(tmp_path):
    write_series(tmp_path / "ct", places=np.round(np.arange(12) * 2.65, 1), matrix=affine((1.25, 1.5, 2.65)))
    case = read_case(tmp_path / "ct", write_image(tmp_path / "mask.nrrd", box_mask(), affine((1.25, 1.5, 2.65))))
    assert not any("spaced" in text or "lacks" in text for text in case.warnings)


def test_two_series_are_a_choice(ct, tmp_path):
    other = write_series(ct[0], hu=some_hu() + np.int16(7), SeriesDescription="Chest 1 mm", leave_out=[11])
    mask = write_image(tmp_path / "mask.nrrd", box_mask())
    text = sentence(ct[0], mask)
    assert "2 CT series" in text and "--series-uid" in text
    assert f"{ct[1]} (12 slices, 'Chest 3 mm')" in text and f"{other} (11 slices, 'Chest 1 mm')" in text
    assert np.array_equal(read_case(ct[0], mask, series_uid=other).hu, some_hu()[:11] + 7)
    assert "no series 1.2.3" in sentence(ct[0], mask, series_uid="1.2.3")


def test_what_lies_beside_the_ct_is_passed_over(ct, tmp_path):
    folder, uid = ct
    write_rtstruct(folder / "rs.dcm", {"GTV": [rectangle(affine(), 5, (12, 20), (10, 20))]}, series=uid)
    write_series(folder, hu=some_hu()[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder, modality="MR")
    (folder / "README.md").write_text("not an image")
    (folder / "DICOMDIR").write_bytes(b"\0" * 500)
    case = read_case(folder, folder)
    assert np.array_equal(case.hu, some_hu()) and case.warnings == () and case.segment_name == "GTV"


def test_a_copy_of_a_slice_is_no_slice_of_its_own(ct, tmp_path):
    file = next(ct[0].glob("*.dcm"))
    (ct[0] / "copy.dcm").write_bytes(file.read_bytes())
    assert read_case(ct[0], write_image(tmp_path / "mask.nrrd", box_mask())).warnings == ()


def test_several_phases_in_one_series(ct, tmp_path):
    for file in list(ct[0].glob("*.dcm")):
        ds = pydicom.dcmread(file)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.save_as(file.with_name("again_" + file.name))
    assert "24 slices at only 12 places" in sentence(ct[0], write_image(tmp_path / "mask.nrrd", box_mask()))


def test_a_slice_of_another_orientation_is_left_out(ct, tmp_path):
    extra = tmp_path / "extra"
    write_series(extra, hu=some_hu()[:1], uid=ct[1], matrix=affine(rotation=turned(90)))
    next(extra.iterdir()).rename(ct[0] / "extra.dcm")
    case = read_case(ct[0], write_image(tmp_path / "mask.nrrd", box_mask()))
    assert "1 of the 13 slices" in only(case.warnings) and np.array_equal(case.hu, some_hu())


@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_another_modality_than_ct_is_refused_and_a_warning_with_force(tmp_path, modality):
    write_series(tmp_path / "other", modality=modality)
    mask = write_image(tmp_path / "mask.nrrd", box_mask())
    assert f"modality {modality}, not CT" in (text := sentence(tmp_path / "other", mask)) and "--force" in text
    assert f"modality {modality}, not CT" in sentence(next((tmp_path / "other").glob("*.dcm")), mask)
    case = read_case(tmp_path / "other", mask, force=True)
    assert f"modality {modality}, not CT" in only(case.warnings)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_another_modality_is_refused_in_the_words_of_the_program(tmp_path, packed):
    """The panel has a check box, the command line an option; an archive is named in place of its unpacked folder."""
    given = tmp_path / "other"
    write_series(given, modality="MR")
    mask = write_image(tmp_path / "mask.nrrd", box_mask())
    if packed:
        given = Path(shutil.make_archive(str(given), "zip", given))
    advice = "Choose the CT, or "
    text = sentence(given, mask)
    assert str(given) in text and text.endswith(f"MR, not CT. {advice}use --force to predict all the same.")
    assert text.count(advice) == 1
    with pytest.raises(CNNSurvivalError) as caught, words_of_the_panel():
        read_case(given, mask)
    text = str(caught.value)
    assert str(given) in text and text.endswith(f"{advice}tick 'Predict although the image does not look like a CT' "
                                                "in the tab Model.")  # fmt: skip
    assert "--force" not in text and text.count(advice) == 1


def test_a_folder_without_ct(tmp_path):
    mask = write_image(tmp_path / "mask.nrrd", box_mask())
    (tmp_path / "empty").mkdir()
    assert "holds no DICOM CT slices" in sentence(tmp_path / "empty", mask)
    rs = write_rtstruct(tmp_path / "empty" / "rs.dcm", {"GTV": [rectangle(affine(), 5, (12, 20), (10, 20))]})
    assert "holds no DICOM CT slices" in sentence(tmp_path / "empty", mask)
    assert "is a DICOM RTSTRUCT, not a CT" in sentence(rs, mask)


def test_missing_and_damaged_files(ct, tmp_path, capfd):
    image, mask = write_image(tmp_path / "ct.nrrd", some_hu()), write_image(tmp_path / "mask.nrrd", box_mask())
    nowhere = tmp_path / "none.nrrd"
    assert sentence(nowhere, mask) == f"The CT '{nowhere}' does not exist; check the path."
    assert sentence(image, nowhere) == f"The mask '{nowhere}' does not exist; check the path."
    with pytest.raises(UsageError, match="The mask '.*none.nrrd' does not exist; check the path."):
        find_segments(nowhere, ["GTV"])
    for ending in ("nrrd", "nii.gz", "mha", "dcm"):
        broken = tmp_path / f"broken.{ending}"
        broken.write_bytes(b"no image at all")
        assert f"The CT {broken} cannot be read" in sentence(broken, mask)
        assert f"The mask {broken} cannot be read" in sentence(image, broken)
    (tmp_path / "empty.nrrd").write_bytes(b"")
    assert "cannot be read" in sentence(tmp_path / "empty.nrrd", mask)
    for compressed, ending in itertools.product((False, True), ("nrrd", "nii.gz", "mha", "nii")):
        whole = write_image(tmp_path / f"cut.{ending}", some_hu(), compressed=compressed)
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        assert f"The CT {whole} cannot be read" in sentence(whole, mask)
    slice_file = sorted(ct[0].glob("*.dcm"))[3]
    slice_file.write_bytes(slice_file.read_bytes()[:-2000])
    assert f"The CT slice {slice_file} cannot be read" in sentence(ct[0], mask)
    out, err = capfd.readouterr()
    assert out == "" and "warning" not in err.lower() and "exception" not in err.lower()


def test_colour_flat_and_4d_images(tmp_path):
    mask = write_image(tmp_path / "mask.nrrd", box_mask())
    colour = write_image(tmp_path / "colour.nrrd", np.zeros((*SHAPE, 3), np.uint8), vector=True)
    assert "3 values per voxel" in sentence(colour, mask)
    series = np.stack([some_hu(), some_hu()])
    assert "has 4 dimensions (48 x 40 x 12 x 2 voxels" in sentence(write_image(tmp_path / "4d.nii.gz", series), mask)
    assert "flat picture" in sentence(write_image(tmp_path / "2d.nrrd", some_hu()[0]), mask)
    singleton = write_image(tmp_path / "3d1.nii.gz", some_hu()[np.newaxis])
    assert np.array_equal(read_case(singleton, mask).hu, some_hu())
    assert "no series to choose" in sentence(singleton, mask, series_uid="1.2")


def test_voxels_that_are_no_numbers_are_a_warning(tmp_path):
    hu = some_hu().astype(np.float32)
    hu[0, 0, :3] = np.nan, np.inf, -np.inf
    case = read_case(write_image(tmp_path / "ct.nrrd", hu), write_image(tmp_path / "mask.nrrd", box_mask()))
    assert "3 voxels that are NaN or infinite" in only(case.warnings)


# --- Label images -------------------------------------------------------------------------------------------


def test_labels_are_chosen_by_number(tmp_path):
    image = write_image(tmp_path / "ct.nrrd", some_hu())
    labels = box_mask() * np.uint8(3)
    assert read_case(image, write_image(tmp_path / "one.nrrd", labels)).segment_name == "3"
    labels[0] = 2
    mask = write_image(tmp_path / "two.nii.gz", labels.astype(np.float32))
    assert "holds 2 labels; choose one with --segment: 2, 3." in sentence(image, mask)
    assert np.array_equal(read_case(image, mask, "3").mask, box_mask())
    assert "no label 'GTV'; it has 2, 3." in sentence(image, mask, "GTV")
    empty = write_image(tmp_path / "empty.nrrd", labels * 0)
    assert f"The mask {empty} is empty" in sentence(image, empty)
    fuzzy = write_image(tmp_path / "fuzzy.nrrd", box_mask() * np.float32(0.7))
    case = read_case(image, fuzzy)
    assert "0.5 or more" in only(case.warnings) and np.array_equal(case.mask, box_mask())
    assert "no whole numbers" in sentence(image, write_image(tmp_path / "ct2.nrrd", some_hu() + np.float32(0.5)))


def segment_header(*segments):
    header = {}
    for n, (name, label, layer) in enumerate(segments):
        header |= {f"Segment{n}_ID": f"Segment_{n + 1}", f"Segment{n}_Name": name}
        header |= {} if label is None else {f"Segment{n}_LabelValue": label, f"Segment{n}_Layer": layer}
    return header


@pytest.mark.parametrize("vector", [True, False])
def test_slicer_segments_in_shared_and_separate_layers(tmp_path, vector):
    image = write_image(tmp_path / "ct.nrrd", some_hu())
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0][box_mask() > 0] = 1
    layers[0, 0] = 2
    layers[1, 5:7, 12:14, 14:16] = 1
    header = segment_header(("Tumour", 1, 0), ("Lung", 2, 0), ("Core", 1, 1))
    array = np.moveaxis(layers, 0, -1) if vector else layers
    mask = write_image(tmp_path / "s.seg.nrrd", np.ascontiguousarray(array), vector=vector, **header)
    for name, expected in (("Tumour", layers[0] == 1), ("lung ", layers[0] == 2), ("Core", layers[1] == 1)):
        assert np.array_equal(read_case(image, mask, name).mask, expected)
    assert read_case(image, mask, "lung ").segment_name == "Lung"
    assert "holds 3 segments; choose one with --segment: 'Tumour', 'Lung', 'Core'." in sentence(image, mask)
    assert "no segment 'GTV'; it has 'Tumour', 'Lung', 'Core'" in sentence(image, mask, "GTV")
    assert np.array_equal(read_case(image, mask, "2").mask, layers[0] == 2)
    assert "2 segments that '1' can mean" in sentence(image, mask, "1")


def test_slicer_segments_of_one_layer_and_of_old_files(tmp_path):
    image = write_image(tmp_path / "ct.nrrd", some_hu())
    flat = write_image(tmp_path / "a.seg.nrrd", box_mask() * np.uint8(5), **segment_header(("GTV", 5, 0), ("X", 6, 0)))
    assert np.array_equal(read_case(image, flat, "GTV").mask, box_mask())
    assert "Segment 'X'" in sentence(image, flat, "X") and "is empty" in sentence(image, flat, "X")
    array = np.stack([box_mask() * 0, box_mask()], axis=-1)
    old = write_image(tmp_path / "b.seg.nrrd", array, vector=True, **segment_header(("A", None, 0), ("B", None, 0)))
    assert np.array_equal(read_case(image, old, "B").mask, box_mask())


def test_exact_names_win_over_other_spellings(tmp_path):
    image = write_image(tmp_path / "ct.nrrd", some_hu())
    labels = box_mask() + np.uint8(1)
    mask = write_image(tmp_path / "s.seg.nrrd", labels, **segment_header(("gtv", 1, 0), ("GTV", 2, 0)))
    assert np.array_equal(read_case(image, mask, "GTV").mask, box_mask())
    assert "2 segments that 'Gtv' can mean" in sentence(image, mask, "Gtv")


def test_a_mask_on_another_grid(tmp_path):
    image = write_image(tmp_path / "ct.nrrd", some_hu())
    crop = write_image(tmp_path / "crop.nrrd", box_mask()[3:10, 8:, 10:], affine(origin=position(affine(), [10, 8, 3])))
    case = read_case(image, crop)
    assert np.array_equal(case.mask, box_mask()) and case.warnings == ()
    flipped = affine(origin=position(affine(), [47, 0, 0]))
    flipped[:3, 0] *= -1
    case = read_case(image, write_image(tmp_path / "flip.nrrd", box_mask()[:, :, ::-1], flipped))
    assert np.array_equal(case.mask, box_mask()) and case.warnings == ()
    fine = affine((0.625, 0.75, 1.5), position(affine(), [-0.25, -0.25, -0.25]))
    case = read_case(
        image, write_image(tmp_path / "fine.nrrd", box_mask().repeat(2, 0).repeat(2, 1).repeat(2, 2), fine)
    )
    assert np.array_equal(case.mask, box_mask())
    assert "grid (96 x 80 x 24 voxels) is not the CT's (48 x 40 x 12)" in only(case.warnings)
    assert "spacing 0.625 x 0.75 x 1.5 mm instead of 1.25 x 1.5 x 3 mm" in only(case.warnings)
    partly = read_case(image, write_image(tmp_path / "part.nrrd", box_mask(), affine(origin=(-30, -20, 82))))
    assert any("40% of the mask lies outside the CT" in text for text in partly.warnings)
    far = write_image(tmp_path / "far.nrrd", box_mask(), affine(origin=(-30, -20, 700)))
    assert "lies entirely outside the CT" in sentence(image, far)


@pytest.mark.parametrize(
    "matrix, words",
    [
        (affine((1.25, 1.5, 3.05)), "spacing 1.25 x 1.5 x 3.05 mm instead of 1.25 x 1.5 x 3 mm"),
        (affine(origin=(-30.2, -20.0, 100.5)), "origin 0.539 mm away (-0.2, 0, 0.5 mm in L, P, S)"),
        (affine(rotation=turned(2)), "axes turned by up to 2 degrees"),
    ],
)
def test_a_grid_that_differs_says_what_differs_and_by_how_much(tmp_path, matrix, words):
    image = write_image(tmp_path / "ct.nrrd", some_hu())
    text = " ".join(read_case(image, write_image(tmp_path / "mask.nrrd", box_mask(), matrix)).warnings)
    assert f"grid (48 x 40 x 12 voxels) is not the CT's (48 x 40 x 12): {words}; the mask was resampled" in text


def test_a_nifti_with_two_places_says_which_was_taken(tmp_path):
    """qform and sform differ by 7.5 mm in x; which one ITK takes depends on the codes."""
    matrix = affine(rotation=turned(20, 2))
    image = write_image(tmp_path / "ct.nii", some_hu(), matrix)
    mask = write_image(tmp_path / "mask.nii", box_mask(), matrix)
    assert read_case(image, mask).warnings == ()
    for codes in ((1, 1), (1, 2), (2, 1)):
        for path, what in ((image, "CT"), (mask, "mask")):
            content = bytearray(path.read_bytes())
            before = bytes(content)
            struct.pack_into("<hh", content, 252, *codes)
            struct.pack_into("<f", content, 292, struct.unpack_from("<f", content, 292)[0] - 7.5)
            path.write_bytes(content)
            form = "qform" if np.allclose(sitk.ReadImage(str(path)).GetOrigin()[0], matrix[0, 3]) else "sform"
            text = only([text for text in read_case(image, mask).warnings if "qform" in text])
            assert f"The {what} " in text and "up to 7.5 mm apart" in text and f"the {form} was taken" in text
            path.write_bytes(before)


# --- DICOM SEG ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_empty", [True, False])
def test_a_binary_seg(ct, tmp_path, drop_empty):
    other = np.zeros(SHAPE, np.uint8)
    other[6:, 2:8, 2:8] = 1
    seg = write_seg(tmp_path / "seg.dcm", ct[0], {"Tumour": box_mask(), "Node": other}, drop_empty=drop_empty)
    assert "2 segments; choose one with --segment: 'Tumour', 'Node'" in sentence(ct[0], seg)
    case = read_case(ct[0], seg, "tumour")
    assert np.array_equal(case.mask, box_mask()) and case.warnings == () and case.segment_name == "Tumour"
    assert np.array_equal(read_case(ct[0], seg, "2").mask, other)
    assert "no segment 'GTV'; it has 'Tumour', 'Node'" in sentence(ct[0], seg, "GTV")


def test_a_seg_where_highdicom_is_missing(ct, tmp_path, monkeypatch):
    """As in Slicer before 5.12: the segments are listed, and the message says what their pixels need."""
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = 1, "Tumour"
    dataset(tmp_path / "seg.dcm", SegmentationStorage, "SEG", SegmentSequence=[item])
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert find_segments(tmp_path / "seg.dcm", ["*"]) == ["Tumour"]
    with pytest.raises(CNNSurvivalError, match="need the Python package 'highdicom', which is not installed here"):
        read_case(ct[0], tmp_path / "seg.dcm")


def test_a_seg_with_an_empty_slice_in_the_tumour(ct, tmp_path):
    mask = box_mask()
    mask[6] = 0
    case = read_case(ct[0], write_seg(tmp_path / "seg.dcm", ct[0], {"Tumour": mask}))
    assert np.array_equal(case.mask, mask) and case.warnings == ()


def test_a_fractional_seg_is_cut_at_a_half(ct, tmp_path):
    part = box_mask() * np.float32(0.4)
    part[5:7, 10:25, 12:30] = 0.6
    case = read_case(ct[0], write_seg(tmp_path / "seg.dcm", ct[0], {"Tumour": part}, kind="FRACTIONAL"))
    assert np.array_equal(case.mask, part >= 0.5)


def test_a_labelmap_seg(ct, tmp_path):
    other = np.zeros(SHAPE, np.uint8)
    other[6:, 2:8, 2:8] = 1
    seg = write_seg(tmp_path / "seg.dcm", ct[0], {"Tumour": box_mask(), "Node": other}, kind="LABELMAP")
    assert np.array_equal(read_case(ct[0], seg, "Node").mask, other)


def test_a_seg_of_unequally_spaced_slices(tmp_path):
    places = np.cumsum([0, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4])
    write_series(tmp_path / "ct", places=places)
    case = read_case(tmp_path / "ct", write_seg(tmp_path / "seg.dcm", tmp_path / "ct", {"Tumour": box_mask()}))
    height = case.ijk_to_ras[2, 3] + case.ijk_to_ras[2, 2] * np.flatnonzero(case.mask.any(axis=(1, 2)))
    assert height.min() == pytest.approx(100 + places[4], abs=2) and height.max() == pytest.approx(
        100 + places[8], abs=2
    )
    assert np.all(np.diff(height) < 4.5)  # no hole
    assert np.array_equal(case.mask.any(axis=0), box_mask().any(axis=0))


def test_a_seg_of_another_series(ct, tmp_path):
    other = write_series(tmp_path / "other")
    seg = write_seg(tmp_path / "seg.dcm", tmp_path / "other", {"Tumour": box_mask()})
    text = only(read_case(ct[0], seg).warnings)
    assert "drawn on another series in the same frame of reference" in text and other in text
    write_series(tmp_path / "far", FrameOfReferenceUID=generate_uid())
    seg = write_seg(tmp_path / "seg2.dcm", tmp_path / "far", {"Tumour": box_mask()})
    assert "another frame of reference" in sentence(ct[0], seg)
    assert np.array_equal(read_case(write_image(tmp_path / "ct.nrrd", some_hu()), seg).mask, box_mask())


# --- RTSTRUCT -----------------------------------------------------------------------------------------------


def box_contours(matrix, slices=range(4, 9)):
    return [rectangle(matrix, k, (12, 29), (10, 24)) for k in slices]


def test_structures_are_chosen_by_name(ct, tmp_path):
    folder, uid = ct
    structures = {"GTVp": box_contours(affine()), "Lung": box_contours(affine(), range(2)), "Iso": [[(0, 0, 100)]]}
    rs = write_rtstruct(tmp_path / "rs.dcm", structures, series=uid)
    for name in ("GTVp", " gtvP "):
        case = read_case(folder, rs, name)
        assert np.array_equal(case.mask, box_mask()) and case.warnings == () and case.segment_name == "GTVp"
    assert "no structure 'GTV'; it has 'GTVp', 'Lung', 'Iso'" in sentence(folder, rs, "GTV")
    assert "3 structures; choose one with --segment: 'GTVp', 'Lung', 'Iso'" in sentence(folder, rs)
    assert "'Iso'" in sentence(folder, rs, "Iso") and "no closed contours" in sentence(folder, rs, "Iso")
    assert "holds no structures" in sentence(folder, write_rtstruct(tmp_path / "none.dcm", {}, series=uid))


def test_which_file_of_a_folder_is_the_mask(ct, tmp_path):
    folder, uid = ct
    masks = tmp_path / "masks"
    masks.mkdir()
    assert "neither a DICOM SEG nor an RTSTRUCT" in sentence(folder, masks)
    write_rtstruct(masks / "rs.dcm", {"GTV": box_contours(affine())}, series=uid)
    assert np.array_equal(read_case(folder, masks).mask, box_mask())
    write_seg(masks / "seg.dcm", folder, {"GTV": box_mask()})
    assert "2 masks; give the file of one: rs.dcm (RTSTRUCT), seg.dcm (SEG)" in sentence(folder, masks)
    assert "of modality CT, neither SEG nor RTSTRUCT" in sentence(folder, next(folder.glob("*.dcm")))


@pytest.mark.parametrize(
    "matrix",
    [
        affine(),
        affine(rotation=np.diag([-1.0, 1.0, 1.0])),
        affine(rotation=np.diag([1.0, -1.0, -1.0])),
        affine(rotation=np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])),
        affine(rotation=turned(14) @ turned(9, 2)),
    ],
    ids=["axial", "mirrored", "upside down", "sagittal", "oblique"],
)
def test_contours_follow_the_cts_orientation(tmp_path, matrix):
    image = write_image(tmp_path / "ct.nrrd", some_hu(), matrix)
    rs = write_rtstruct(tmp_path / "rs.dcm", {"GTV": box_contours(matrix)})
    case = read_case(image, rs)
    assert np.array_equal(case.mask, box_mask())


@pytest.mark.parametrize("rotation", [np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]), turned(20)])
def test_axial_contours_on_a_ct_that_is_not_axial(tmp_path, rotation):
    """A ball, contoured axially every 2 mm, on a sagittally stored and on an oblique grid."""
    matrix = affine((1.5, 1.5, 2.0), rotation=rotation)
    shape, radius = (40, 40, 40), 18.0
    center = position(matrix, [[19.5, 19.5, 19.5]])[0]
    heights = np.arange(-17, 18, 2.0)
    loops = [circle(matrix, center, np.sqrt(radius**2 - h**2), center[2] + h) for h in heights]
    image = write_image(tmp_path / "ct.nrrd", np.zeros(shape, np.int16), matrix)
    case = read_case(image, write_rtstruct(tmp_path / "rs.dcm", {"GTV": loops}))
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)[..., ::-1]
    ball = np.linalg.norm(position(matrix, index.reshape(-1, 3)) - center, axis=1).reshape(shape) <= radius
    assert dice(case.mask, ball) > 0.96 and case.mask.sum() == pytest.approx(ball.sum(), rel=0.05)


def dice(a, b):
    a, b = a > 0, b > 0
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_several_contours_holes_and_keyholes(ct, tmp_path):
    matrix = affine()

    def filled(*boxes):
        plane = np.zeros(SHAPE[1:], np.uint8)
        for (a, b), (c, d) in boxes:
            plane[c : d + 1, a : b + 1] ^= 1
        return plane

    outer, hole, island, other = ((5, 25), (5, 30)), ((8, 20), (8, 25)), ((12, 15), (12, 15)), ((30, 40), (5, 10))
    loops = [rectangle(matrix, 4, *box) for box in (outer, hole, island, other)]
    a, b = rectangle(np.eye(4), 5, *outer), rectangle(np.eye(4), 5, *hole)
    keyhole = position(matrix, [*a, a[0], *b[::-1][-1:], *b[::-1], a[0]])
    rs = write_rtstruct(tmp_path / "rs.dcm", {"GTV": [*loops, keyhole]}, series=ct[1])
    mask = read_case(ct[0], rs).mask
    assert np.array_equal(mask[4], filled(outer, hole, island, other))
    assert np.array_equal(mask[5], filled(outer, hole))
    assert mask.any(axis=(1, 2)).sum() == 2


def test_vertices_are_not_rounded_to_pixels(ct, tmp_path):
    """The area of small shapes is right on average, also where the vertices lie on pixel centres."""
    matrix, areas = affine(), []
    loop = rectangle(np.eye(4), 5, (10, 15), (10, 14)) + (0.5, 0.5, 0)  # 6 x 5 pixels, edges on pixel centres
    rs = write_rtstruct(tmp_path / "grid.dcm", {"GTV": [position(matrix, loop)]}, series=ct[1])
    assert read_case(ct[0], rs).mask.sum() == 30
    rng = np.random.default_rng(3)
    structures = {}
    for n in range(40):
        center = position(matrix, [[20 + rng.random(), 20 + rng.random(), 5]])[0]
        structures[f"s{n}"] = [circle(matrix, center, 5.0, center[2])]
    rs = write_rtstruct(tmp_path / "rs.dcm", structures, series=ct[1])
    image = write_image(tmp_path / "ct.nrrd", some_hu())
    areas = [read_case(image, rs, name).mask.sum() * 1.25 * 1.5 for name in structures]
    assert np.mean(areas) == pytest.approx(np.pi * 25, rel=0.01)


def test_slices_between_contours_are_interpolated(ct, tmp_path):
    """A cone, contoured on every other slice, is a cone on all of them."""
    matrix, center = affine(), position(affine(), [[24, 20, 0]])[0]
    radii = {k: 8.0 + 1.5 * (k - 2) for k in range(2, 9)}
    loops = [circle(matrix, center, radii[k], 100 + 3 * k) for k in (2, 4, 6, 8)]
    case = read_case(ct[0], write_rtstruct(tmp_path / "rs.dcm", {"GTV": loops}, series=ct[1]))
    areas = case.mask.sum(axis=(1, 2)) * 1.25 * 1.5
    assert case.warnings == () and np.flatnonzero(areas).tolist() == list(range(2, 9))
    for k, radius in radii.items():
        assert areas[k] == pytest.approx(np.pi * radius**2, rel=0.08)


def test_a_wide_gap_between_contours_stays_open(ct, tmp_path):
    rs = write_rtstruct(tmp_path / "rs.dcm", {"GTV": box_contours(affine(), (1, 2, 3, 7, 8))}, series=ct[1])
    case = read_case(ct[0], rs)
    assert np.flatnonzero(case.mask.any(axis=(1, 2))).tolist() == [1, 2, 3, 7, 8]
    assert "3.0 mm apart but leave 1 larger gap of up to 12.0 mm" in only(case.warnings)


@pytest.mark.parametrize("offset", [-0.4, 0.3, 0.5])
def test_contours_that_lie_between_the_slices_count(ct, tmp_path, offset):
    matrix = affine()
    one = write_rtstruct(
        tmp_path / "one.dcm", {"GTV": [rectangle(matrix, 5 + offset, (12, 29), (10, 24))]}, series=ct[1]
    )
    assert np.flatnonzero(read_case(ct[0], one).mask.any(axis=(1, 2))).tolist() == [5]
    five = box_contours(matrix, np.arange(4, 9) + offset)
    case = read_case(ct[0], write_rtstruct(tmp_path / "five.dcm", {"GTV": five}, series=ct[1]))
    assert np.array_equal(case.mask, box_mask())


def test_contours_much_denser_than_the_slices(ct, tmp_path):
    matrix = affine()
    loops = box_contours(matrix, np.arange(4, 8.01, 0.2))
    case = read_case(ct[0], write_rtstruct(tmp_path / "rs.dcm", {"GTV": loops}, series=ct[1]))
    assert np.array_equal(case.mask, box_mask())
    thin = write_rtstruct(tmp_path / "thin.dcm", {"GTV": box_contours(matrix, (5.3, 5.4, 5.5))}, series=ct[1])
    assert read_case(ct[0], thin).mask[5].sum() == box_mask()[5].sum()


def test_an_rtstruct_of_another_series(ct, tmp_path):
    folder, _ = ct
    contours = {"GTV": box_contours(affine())}
    other = generate_uid()
    same_frame = write_rtstruct(tmp_path / "a.dcm", contours, series=other)
    text = only(read_case(folder, same_frame).warnings)
    assert "another series in the same frame of reference" in text and other in text
    foreign = write_rtstruct(tmp_path / "b.dcm", contours, series=other, frame=generate_uid())
    text = sentence(folder, foreign)
    assert "another frame of reference" in text and other in text
    silent = write_rtstruct(tmp_path / "c.dcm", contours, frame=None)
    assert "does not say on which series it was drawn" in only(read_case(folder, silent).warnings)


def test_contours_outside_the_ct(ct, tmp_path):
    loops = box_contours(affine(), (10, 11, 12, 13))
    case = read_case(ct[0], write_rtstruct(tmp_path / "rs.dcm", {"GTV": loops}, series=ct[1]))
    assert "2 of the 4 contours of 'GTV' lie outside the CT" in only(case.warnings)
    assert np.flatnonzero(case.mask.any(axis=(1, 2))).tolist() == [10, 11]
    far = write_rtstruct(tmp_path / "far.dcm", {"GTV": box_contours(affine(), (100, 101))}, series=ct[1])
    assert "lies entirely outside the CT" in sentence(ct[0], far)
    tiny = circle(affine(), position(affine(), [[20.5, 20.5, 0]])[0], 0.2, 115)
    tiny = write_rtstruct(tmp_path / "tiny.dcm", {"GTV": [tiny]}, series=ct[1])
    assert "smaller than a voxel" in sentence(ct[0], tiny)


# --- Real data ----------------------------------------------------------------------------------------------


def supersampled(contours, case, factor=4):
    """Another rasteriser: Pillow, each slice drawn ``factor`` times finer; (mask, volume in cc)."""
    drawing = pytest.importorskip("PIL.ImageDraw")
    picture = pytest.importorskip("PIL.Image")
    to_index = np.linalg.inv(LPS_TO_RAS @ case.ijk_to_ras)
    fraction = np.zeros(case.mask.shape, np.float32)
    _, rows, columns = case.mask.shape
    for points in contours:
        index = position(to_index, points)
        image = picture.new("L", (columns * factor, rows * factor))
        drawing.Draw(image).polygon([tuple((p[:2] + 0.5) * factor - 0.5) for p in index], fill=1)
        blocks = np.asarray(image).reshape(rows, factor, columns, factor)
        k = int(round(index[0, 2]))
        fraction[k] = np.abs(fraction[k] - blocks.mean(axis=(1, 3)))
    return fraction >= 0.5, float(fraction.sum()) * voxel_cc(case)


def voxel_cc(case):
    return abs(np.linalg.det(case.ijk_to_ras[:3, :3])) / 1000


def contours_of(path, name):
    ds = pydicom.dcmread(path)
    number = next(roi.ROINumber for roi in ds.StructureSetROISequence if roi.ROIName == name)
    roi = next(roi for roi in ds.ROIContourSequence if roi.ReferencedROINumber == number)
    return [np.array(item.ContourData, float).reshape(-1, 3) for item in roi.ContourSequence]


def polygon_cc(contours, thickness):
    """Volume from the contours alone: shoelace area times slice thickness."""
    area = sum(abs(np.sum(p[:, 0] * np.roll(p[:, 1], 1) - p[:, 1] * np.roll(p[:, 0], 1))) / 2 for p in contours)
    return area * thickness / 1000


def test_a_real_rtstruct_that_names_no_series(shared_data):
    folder = shared_data("data/dicom/chest-ct-rtstruct")
    case = read_case(folder, folder, "GTVp")
    contours = contours_of(folder / "rtstruct.dcm", "GTVp")
    other, cc = supersampled(contours, case)
    assert case.hu.shape == (105, 512, 512) and case.mask.any(axis=(1, 2)).sum() == len(contours) == 17
    assert dice(case.mask, other) > 0.97
    assert case.mask.sum() * voxel_cc(case) == pytest.approx(cc, rel=0.03)
    assert case.mask.sum() * voxel_cc(case) == pytest.approx(polygon_cc(contours, 4.0), rel=0.01)
    assert "does not say on which series" in only(case.warnings)
    assert len(extract_slices(case.hu, case.mask, case.ijk_to_ras)) == 17
    assert "'GTVp', 'CTVp'" in sentence(folder, folder, "GTV")


@pytest.mark.parametrize("patient, readme_cc, slices", [(1, 368, 26), (2, 7, 7), (3, 13, 12), (4, 129, 23)])
def test_real_lung_tumours(shared_data, patient, readme_cc, slices):
    """The collection's volumes count every pixel that a contour touches, ours those whose centre it holds.

    So ours are the polygons' own, and smaller: by 3 % for a large tumour, 12 % for a small one.
    """
    folder = shared_data(f"data/dicom/lung-gtv/pat_{patient}")
    case = read_case(folder, folder)
    rtstruct = next(folder.glob("DCM_RS*"))
    contours = contours_of(rtstruct, "GTV-1")
    other, _ = supersampled(contours, case)
    cc = case.mask.sum() * voxel_cc(case)
    assert case.warnings == () and case.segment_name == "GTV-1"
    assert case.mask.any(axis=(1, 2)).sum() == slices
    assert cc == pytest.approx(polygon_cc(contours, 3.0), rel=0.02)
    assert 0.88 * readme_cc < cc < readme_cc
    assert dice(case.mask, other) > 0.97
    ranked = extract_slices(case.hu, case.mask, case.ijk_to_ras, Preprocessing(min_roi_px=50))
    assert len(ranked) >= 5 and 10 < ranked.mean_intensity.mean() < 200


def test_real_crops(shared_data):
    folder = shared_data("data/nsclc")
    case = read_case(folder / "p002_ct.nrrd", folder / "p002_mask.nrrd")
    assert case.warnings == () and np.allclose(case.ijk_to_ras[:3, :3], np.diag([-1, -1, 1]))
