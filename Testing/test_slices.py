"""Slices: the same tumour gives the same slices however it is stored; ranking; what is refused or warned of."""

import itertools
import tracemalloc

import numpy as np
import pytest

from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.slices import (
    MAX_OBLIQUE_DEGREES,
    Preprocessing,
    axial_geometry,
    extract_slices,
    percentile_rank_score,
)

SPACING = (3.0, 1.0, 1.0)


def stored_otherwise(array, ijk_to_ras, order, flips):
    """The same anatomy with array axes [k, j, i] permuted and flipped, and the matrix that says so."""
    # array axis a is IJK column 2 - a
    other = array.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    matrix = np.eye(4)
    origin = ijk_to_ras[:3, 3].copy()
    for axis in range(3):
        column = ijk_to_ras[:3, 2 - order[axis]]
        if flips[axis]:
            origin += column * (other.shape[axis] - 1)
            column = -column
        matrix[:3, 2 - axis] = column
    matrix[:3, 3] = origin
    return np.ascontiguousarray(other), matrix


def assert_same(a, b):
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.area_px, b.area_px)
    np.testing.assert_allclose(a.area_mm2, b.area_mm2)
    np.testing.assert_allclose(a.center_ras, b.center_ras, atol=1e-9)
    assert a.warnings == b.warnings


def rotation(degrees, axis):
    angle, matrix = np.radians(degrees), np.eye(4)
    a, b = [i for i in range(3) if i != axis]
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


def test_a_slice_shows_the_window_inside_the_mask_and_zero_outside(sphere):
    hu, mask = sphere()
    s = extract_slices(hu, mask, axial_geometry(SPACING))
    first = s.images[0]
    k = s.slice_index[0]
    rows, columns = np.nonzero(mask[k])
    top, left = rows.min(), columns.min()
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    expected = np.rint(np.clip((hu[k].astype(float) + 160) / 400 * 255, 0, 255)) * mask[k]
    y, x = (140 - height) // 2, (140 - width) // 2
    np.testing.assert_array_equal(
        first[y : y + height, x : x + width], expected[top : top + height, left : left + width].astype(np.uint8)
    )
    assert np.count_nonzero(first) <= mask[k].sum() == s.area_px[0]
    assert s.area_mm2[0] == s.area_px[0]
    assert s.mean_intensity[0] == pytest.approx(expected[mask[k] > 0].mean())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_storage_order_and_flips_do_not_matter(sphere, order):
    hu, mask = sphere(shape=(20, 70, 80), radius_mm=18, center_mm=(2, 3, -6))
    geometry = axial_geometry(SPACING, (10, -20, 30))
    reference = extract_slices(hu, mask, geometry)
    for flips in itertools.product((False, True), repeat=3):
        other_hu, matrix = stored_otherwise(hu, geometry, order, flips)
        other_mask, _ = stored_otherwise(mask, geometry, order, flips)
        other = extract_slices(other_hu, other_mask, matrix)
        assert_same(reference, other)
        # slice_index counts along the axis that was sliced, in the array's own order
        assert other.axis == order.index(0)
        planes = np.moveaxis(other_mask, other.axis, 0)
        np.testing.assert_array_equal([planes[i].sum() for i in other.slice_index], other.area_px)


def test_moving_the_tumour_or_padding_the_volume_changes_nothing(sphere):
    hu, mask = sphere(radius_mm=15)
    reference = extract_slices(hu, mask, axial_geometry((3.0, 0.8, 0.8)))
    padded = [np.pad(a, ((3, 5), (17, 4), (2, 31)), mode="edge") for a in (hu, mask)]
    moved = extract_slices(*padded, axial_geometry((3.0, 0.8, 0.8)))
    np.testing.assert_array_equal(reference.images, moved.images)
    np.testing.assert_array_equal(reference.slice_index + 3, moved.slice_index)


def test_voxels_outside_the_mask_do_not_matter_where_nothing_is_resampled(sphere):
    hu, mask = sphere()
    other = np.where(mask, hu, np.random.default_rng(3).integers(-1000, 3000, hu.shape)).astype(np.int16)
    np.testing.assert_array_equal(
        extract_slices(hu, mask, axial_geometry(SPACING)).images,
        extract_slices(other, mask, axial_geometry(SPACING)).images,
    )


@pytest.mark.parametrize("spacing", [(3, 0.5, 0.5), (3, 0.7, 0.9), (3, 1.4, 1.25), (3, 2.0, 1.0)])
def test_other_pixel_sizes_give_the_same_slices_but_for_interpolation(spacing):
    """A smooth ball sampled at 1 mm and at another pixel size."""

    def ball(step):
        shape = [int(round(n / d)) | 1 for n, d in zip((60, 90, 90), step)]
        z, y, x = np.meshgrid(*[(np.arange(n) - n // 2) * d for n, d in zip(shape, step)], indexing="ij")
        return 60 + 2.0 * x - 1.5 * y, (x**2 / 1.3 + y**2 + z**2 < 20**2).astype(np.uint8)

    a = extract_slices(*ball((3, 1, 1)), axial_geometry((3, 1, 1)))
    b = extract_slices(*ball(spacing), axial_geometry(spacing))
    assert len(a) == len(b)
    by_plane_a, by_plane_b = np.argsort(a.slice_index), np.argsort(b.slice_index)
    np.testing.assert_allclose(a.area_px[by_plane_a], b.area_px[by_plane_b], rtol=0.03, atol=8)
    np.testing.assert_allclose(a.area_mm2[by_plane_a], b.area_mm2[by_plane_b], rtol=0.03, atol=8)
    middle = len(a) // 2
    image_a, image_b = a.images[by_plane_a[middle]], b.images[by_plane_b[middle]]
    both = (image_a > 0) & (image_b > 0)
    assert both.sum() > 0.95 * np.count_nonzero(image_a)
    # the gradient is 2 HU/mm; half a pixel of the coarser grid is at most 1 mm: 2.5 HU are 1.6 grey levels
    assert np.abs(image_a[both].astype(int) - image_b[both]).max() <= 3


def test_native_pixel_size_keeps_the_pixels(sphere):
    hu, mask = sphere()
    s = extract_slices(hu, mask, axial_geometry((3.0, 0.7, 0.7)), Preprocessing(pixel_size_mm=None))
    np.testing.assert_array_equal(s.area_px, [mask[k].sum() for k in s.slice_index])
    np.testing.assert_allclose(s.area_mm2, s.area_px * 0.49)


@pytest.mark.parametrize("axis", [0, 1])
def test_oblique_within_the_limit_is_axial_and_beyond_it_is_warned_of(sphere, axis):
    hu, mask = sphere()
    geometry = axial_geometry(SPACING)
    reference = extract_slices(hu, mask, geometry)
    within = extract_slices(hu, mask, rotation(MAX_OBLIQUE_DEGREES - 1, axis) @ geometry)
    np.testing.assert_array_equal(reference.images, within.images)
    assert within.warnings == ()
    beyond = extract_slices(hu, mask, rotation(MAX_OBLIQUE_DEGREES + 10, axis) @ geometry)
    assert len(beyond.warnings) == 1 and "turned by 20 degrees" in beyond.warnings[0]


def test_centres_lie_at_the_tumour_in_ras(sphere):
    hu, mask = sphere(center_mm=(0.0, 9.0, -14.0))
    geometry = axial_geometry(SPACING, (5, 6, 7))
    s = extract_slices(hu, mask, geometry)
    k = s.slice_index[0]
    rows, columns = np.nonzero(mask[k])
    middle = [(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2, k, 1]
    np.testing.assert_allclose(s.center_ras[0], (geometry @ middle)[:3])


def test_ranking_is_the_mean_of_two_percentile_ranks_with_ties_in_slice_order():
    hu = np.full((5, 40, 40), -900, np.int16)
    mask = np.zeros(hu.shape, bool)
    for k, (size, value) in enumerate([(20, 0), (30, 100), (25, 200), (30, 100), (10, 200)]):
        mask[k, :size, :size] = True
        hu[k, :size, :size] = value
    s = extract_slices(hu, mask, axial_geometry((1, 1, 1)))
    # areas 400 900 625 900 -> ranks 1 3.5 2 3.5 of 4; grey 102 166 230 166 -> 1 2.5 4 2.5; the fifth is too small
    assert s.slice_index.tolist() == [1, 2, 3, 0]
    np.testing.assert_allclose(s.area_rank * 4, [3.5, 2, 3.5, 1])
    np.testing.assert_allclose(s.intensity_rank * 4, [2.5, 4, 2.5, 1])
    assert s.roi_slices == 5 and len(s) == 4 and len(s.best(2)) == 2


def test_slice_step_takes_every_third_of_thin_slices_around_the_middle(sphere):
    hu, mask = sphere(shape=(61, 80, 80), spacing=(1, 1, 1))
    s = extract_slices(hu, mask, axial_geometry((1, 1, 1)), Preprocessing(slice_step_mm=3.0))
    used = np.sort(s.slice_index)
    assert set(np.diff(used)) == {3} and 30 in used
    thick = extract_slices(hu, mask, axial_geometry((5, 1, 1)), Preprocessing(slice_step_mm=3.0))
    assert set(np.diff(np.sort(thick.slice_index))) == {1}


def test_a_tumour_larger_than_the_crop_is_cropped_and_said_by_how_much():
    hu = np.zeros((3, 200, 200), np.int16)
    hu[:, :5] = -900
    mask = np.zeros(hu.shape, np.uint8)
    mask[1, 20:80, 10:180] = 1
    s = extract_slices(hu, mask, axial_geometry((3, 1, 1)))
    assert s.area_px[0] == 60 * 170 and np.count_nonzero(s.images[0]) == 60 * 140
    (warning,) = s.warnings
    assert "On 1 of 1 slices" in warning and "by up to 30 pixels" in warning and "18%" in warning


def test_values_that_cannot_be_hounsfield_units_are_warned_of(sphere):
    hu, mask = sphere()
    (warning,) = extract_slices(hu - hu.min(), mask, axial_geometry(SPACING)).warnings[:1]
    assert "do not look like Hounsfield units" in warning


def test_a_contour_in_air_is_warned_of(sphere):
    hu, mask = sphere()
    warnings = extract_slices(np.full_like(hu, -900), mask, axial_geometry(SPACING)).warnings
    assert any("below the model's window" in w for w in warnings)


def test_nan_matters_inside_the_tumour_only(sphere):
    hu, mask = sphere()
    hu = hu.astype(np.float32)
    hu[0, 0, 0] = np.nan
    edge = np.argwhere(mask[12])[0]
    hu[12, edge[0] - 1, edge[1]] = np.inf  # just outside
    extract_slices(hu, mask, axial_geometry(SPACING))
    hu[12, 48, 48] = np.nan
    with pytest.raises(CNNSurvivalError, match=r"NaN or infinite voxels at the tumour \(slice 13 of 24"):
        extract_slices(hu, mask, axial_geometry(SPACING))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda hu, mask: (hu, mask * 0), "segment is empty"),
        (lambda hu, mask: (hu[1:], mask), "96 x 96 x 23 voxels and the mask 96 x 96 x 24"),
        (lambda hu, mask: (np.stack([hu] * 3, axis=-1), mask), "4 and the mask 3 dimensions"),
        (lambda hu, mask: (hu[0], mask[0]), "2 and the mask 2 dimensions"),
        (lambda hu, mask: (hu.astype(complex), mask), "complex128"),
    ],
)
def test_unusable_arrays_are_refused_in_one_sentence(sphere, change, message):
    with pytest.raises(CNNSurvivalError, match=message):
        extract_slices(*change(*sphere()), axial_geometry(SPACING))


def test_a_tumour_too_small_for_the_model_names_what_would_do(sphere):
    hu, mask = sphere(radius_mm=6)
    with pytest.raises(CNNSurvivalError, match=r"has 250 or more pixels.*largest has (\d+)\); lower .*--min-roi") as e:
        extract_slices(hu, mask, axial_geometry(SPACING))
    largest = int(str(e.value).split("largest has ")[1].split(")")[0])
    assert largest == mask.sum(axis=(1, 2)).max()
    assert len(extract_slices(hu, mask, axial_geometry(SPACING), Preprocessing(min_roi_px=largest))) >= 1


@pytest.mark.parametrize("matrix", [np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan), np.diag([1, 1, 0, 1])])
def test_geometry_that_is_none_is_refused(sphere, matrix):
    with pytest.raises(CNNSurvivalError, match="geometry"):
        extract_slices(*sphere(), matrix)


def test_a_large_volume_costs_a_few_megabytes_at_most():
    hu = np.full((200, 512, 512), -900, np.int16)
    mask = np.zeros(hu.shape, np.uint8)
    hu[70:130, 200:260, 240:310] = 40
    mask[70:130, 200:260, 240:310] = 1
    geometry = axial_geometry((1, 0.8, 0.8))
    tracemalloc.start()
    try:
        s = extract_slices(hu, mask, geometry)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(s) == 60
    assert peak - s.images.nbytes < 5e6  # the CT has 105 MB, the mask 52


def test_real_tumours_are_cut_as_they_lie(shared_data):
    """Against SimpleITK's own windowing on a real CT at 1 mm, where nothing is resampled."""
    sitk = pytest.importorskip("SimpleITK")
    folder = shared_data("data/nsclc")
    image, roi = (sitk.ReadImage(str(folder / f"p002_{name}.nrrd")) for name in ("ct", "mask"))
    s = extract_slices(
        sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(roi), axial_geometry(image.GetSpacing()[::-1])
    )
    windowed = sitk.GetArrayFromImage(sitk.IntensityWindowing(sitk.Cast(image, sitk.sitkFloat64), -160, 240, 0, 255))
    mask = sitk.GetArrayFromImage(roi) > 0
    for number in range(len(s)):
        k = s.slice_index[number]
        assert s.area_px[number] == mask[k].sum()
        assert s.mean_intensity[number] == pytest.approx(windowed[k][mask[k]].mean(), abs=0.5)
        inside = np.sort(windowed[k][mask[k]])
        shown = np.sort(s.images[number].ravel())[-inside.size :]
        np.testing.assert_allclose(shown, inside, atol=0.51)


def test_ranks_are_scipys():
    from scipy.stats import rankdata

    random = np.random.default_rng(0)
    for size, most in ((1, 2), (50, 8), (400, 1000)):
        area, intensity = random.integers(0, most, size), random.normal(size=size)
        _score, area_rank, intensity_rank = percentile_rank_score(area, intensity)
        np.testing.assert_array_equal(area_rank, rankdata(area) / size)
        np.testing.assert_array_equal(intensity_rank, rankdata(intensity) / size)


# --- Against an independent implementation ----------------------------------------------------------------------------


def sampled(array, positions):
    """The array [k, j, i] at positions (i, j, k) [..., 3], linear, by SciPy."""
    from scipy.ndimage import map_coordinates

    coordinates = np.moveaxis(positions[..., ::-1], -1, 0)
    return map_coordinates(array.astype(np.float64), coordinates, order=1, mode="nearest")


def uneven_tumour():
    """(hu, mask): noise in a soft-tissue range, in a shape without symmetry that touches the volume's border."""
    random = np.random.default_rng(8)
    hu = random.integers(-150, 230, (7, 60, 52)).astype(np.int16)
    hu[0, -1, -1] = -1000
    mask = np.zeros(hu.shape, np.uint8)
    boxes = [(0, 21, 5, 33), (3, 40, 11, 52), (8, 31, 0, 40), (20, 60, 20, 47)]
    for k, (top, bottom, left, right) in enumerate(boxes, 2):
        mask[k, top:bottom, left:right] = random.random((bottom - top, right - left)) < 0.8
        mask[k, top, left] = mask[k, bottom - 1, right - 1] = 1
    return hu, mask


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("spacing", [(4.0, 1.0, 1.0), (4.0, 0.8, 1.3), (4.0, 1.7, 0.6), (4.0, 2.0, 2.0)])
@pytest.mark.parametrize("degrees", [0, 8])
def test_every_pixel_shows_the_place_that_pixel_to_ras_gives(order, spacing, degrees):
    """Each pixel of each slice is sent to RAS and back into the volume; there SciPy interpolates CT and mask."""
    hu, mask = uneven_tumour()
    geometry = rotation(degrees, 0) @ axial_geometry(spacing, (12, -34, 56))
    hu, matrix = stored_otherwise(hu, geometry, order, (True, False, True))
    mask, _ = stored_otherwise(mask, geometry, order, (True, False, True))
    s = extract_slices(hu, mask, matrix, Preprocessing(min_roi_px=1))
    assert len(s) == 4
    rows, columns = np.meshgrid(np.arange(140), np.arange(140), indexing="ij")
    pixels = np.stack([rows, columns, np.ones_like(rows)], axis=-1).astype(float)
    for image, to_ras, area, grey in zip(s.images, s.pixel_to_ras, s.area_px, s.mean_intensity):
        ras = np.concatenate([pixels @ to_ras.T, np.ones((140, 140, 1))], axis=-1)
        ijk = (ras @ np.linalg.inv(matrix).T)[..., :3]
        # What is further than half a voxel from the volume's outermost centres is outside of it.
        outside = ((ijk < -0.5 - 1e-6) | (ijk > np.array(mask.shape)[::-1] - 0.5 + 1e-6)).any(axis=-1)
        share = np.where(outside, 0, sampled(mask, ijk))
        expected = np.rint(np.clip((sampled(hu, ijk) + 160) / 400 * 255, 0, 255))
        sure = np.abs(share - 0.5) > 1e-3
        inside = sure & (share > 0.5)
        assert image[sure & (share < 0.5)].max() == 0
        np.testing.assert_allclose(image[inside], expected[inside], atol=1)
        assert np.mean(image[inside] == expected[inside]) > 0.98
        assert abs(area - inside.sum()) <= np.count_nonzero(~sure)
        assert abs(grey - expected[inside].mean()) < 1 + 255 * np.count_nonzero(~sure) / area
    # One pixel down and one to the right are 1 mm each, in posterior and left direction.
    steps = np.linalg.norm(s.pixel_to_ras[:, :, :2], axis=1)
    np.testing.assert_allclose(steps, 1)
    assert (s.pixel_to_ras[:, 1, 0] < -0.9).all() and (s.pixel_to_ras[:, 0, 1] < -0.9).all()
    # Slices lie as far apart as their planes.
    assert s.slice_spacing_mm == pytest.approx(4.0) and s.pixel_spacing_mm == pytest.approx(spacing[1:])


def test_slices_of_a_sheared_volume_lie_closer_than_its_columns():
    """A gantry tilt of 30 degrees: the distance of planes is the third column's part along their normal."""
    hu, mask = uneven_tumour()
    matrix = axial_geometry((4.0, 1.0, 1.0))
    matrix[1, 2] = 4.0 * np.tan(np.radians(30))
    s = extract_slices(hu, mask, matrix, Preprocessing(min_roi_px=1))
    assert s.slice_spacing_mm == pytest.approx(4.0) and s.warnings == ()
    assert set(np.diff(np.sort(s.slice_index))) == {1}


def test_the_score_is_the_mean_of_the_ranks():
    score, area_rank, intensity_rank = percentile_rank_score(np.array([10, 30, 20, 20]), np.array([4.0, 1.0, 2.0, 3.0]))
    np.testing.assert_allclose(area_rank, [0.25, 1, 0.625, 0.625])
    np.testing.assert_allclose(intensity_rank, [1, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(score, [0.625, 0.625, 0.5625, 0.6875])


def test_axial_geometry_by_hand():
    expected = [[-0.5, 0, 0, 0], [0, -0.7, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(axial_geometry((3, 0.7, 0.5)), expected)


def flat_tumour(value, elsewhere=-900):
    hu = np.full((3, 40, 40), elsewhere, np.int16)
    mask = np.zeros(hu.shape, np.uint8)
    mask[:, 5:25, 5:25] = 1
    return np.where(mask, value, hu).astype(np.float64), mask


@pytest.mark.parametrize(
    "value, words",
    [(-159.0, "below"), (-158.4, None), (-157.7, None), (238.4, None), (239.9, "above"), (400.0, "above")],
)
def test_the_window_warning_begins_one_grey_level_from_the_ends(value, words):
    """Grey levels 1, 1, 1, 254, 255, 255: the mean of whole levels is 0 or 255 where all is outside."""
    hu, mask = flat_tumour(value)
    grey = np.rint((np.clip(value, -160, 240) + 160) / 400 * 255)
    warnings = extract_slices(hu, mask, axial_geometry(SPACING)).warnings
    found = [w for w in warnings if "model's window" in w]
    assert bool(found) == (grey < 1 or grey > 254)
    if found:
        assert f"lies {'below' if grey < 1 else 'above'} the model's window of -160 to 240 HU" in found[0]


@pytest.mark.parametrize("lowest, warned", [(-60.0, False), (-50.5, False), (-50.0, True), (-40.0, True)])
def test_a_volume_needs_something_as_dark_as_fat(lowest, warned):
    hu, mask = flat_tumour(40, elsewhere=0)
    hu[0, 0, 0] = lowest
    warnings = extract_slices(hu, mask, axial_geometry(SPACING)).warnings
    assert any("do not look like Hounsfield units" in w for w in warnings) == warned


@pytest.mark.parametrize("spacing, kept", [(1.0009, True), (0.9991, True), (1.0012, False), (0.9988, False)])
def test_pixels_within_a_thousandth_of_the_models_are_kept(sphere, spacing, kept):
    hu, mask = sphere(radius_mm=40, shape=(9, 96, 96))
    s = extract_slices(hu, mask, axial_geometry((3.0, spacing, spacing)))
    native = extract_slices(hu, mask, axial_geometry((3.0, 1.0, 1.0)))
    assert np.array_equal(s.images, native.images) == kept


def test_the_limit_of_tilt_itself_is_no_reason_to_warn():
    hu, mask = uneven_tumour()
    for degrees, warned in ((MAX_OBLIQUE_DEGREES - 0.01, False), (MAX_OBLIQUE_DEGREES + 0.01, True)):
        matrix = rotation(degrees, 1) @ axial_geometry((4.0, 1.0, 1.0))
        warnings = extract_slices(hu, mask, matrix, Preprocessing(min_roi_px=1)).warnings
        assert any("is turned by 10 degrees" in w for w in warnings) == warned


def test_nothing_as_large_as_a_pixel_is_said_in_the_cts_own_pixels():
    hu, mask = np.zeros((3, 20, 20)) - 900, np.zeros((3, 20, 20), np.uint8)
    mask[1, 3, 4] = 1  # with another pixel below, the middle of the two is outside both
    preprocessing = Preprocessing(pixel_size_mm=None)
    with pytest.raises(CNNSurvivalError, match=r"at the CT's own pixel size \(the largest has 1\); lower"):
        extract_slices(hu, mask, axial_geometry((3, 1, 1)), preprocessing)
    mask[1, 3, 6] = 1
    with pytest.raises(CNNSurvivalError, match=r"at 4 mm pixel size \(the largest has 0\); check the contour"):
        extract_slices(hu, mask, axial_geometry((3, 0.5, 0.5)), Preprocessing(pixel_size_mm=4.0))


def test_preprocessing_and_slices_cannot_be_changed(sphere):
    s = extract_slices(*sphere(), axial_geometry(SPACING))
    for record, name in ((s, "axis"), (Preprocessing(), "crop_px")):
        with pytest.raises(AttributeError):
            setattr(record, name, 3)


@pytest.mark.parametrize("first", [4, 5, 6, 7])
@pytest.mark.parametrize("flipped", [False, True])
def test_stepped_slices_hold_the_middle_one(first, flipped):
    """Planes first..first + 8, every third: the middle one is among them however the volume is stored."""
    hu, mask = np.full((20, 30, 30), -900.0), np.zeros((20, 30, 30), np.uint8)
    mask[first : first + 8, 5:25, 5:25] = 1
    geometry, flips = axial_geometry((1.0, 1.0, 1.0)), (flipped, True, False)
    other, matrix = stored_otherwise(hu, geometry, (0, 1, 2), flips)
    other_mask, _ = stored_otherwise(mask, geometry, (0, 1, 2), flips)
    s = extract_slices(other, other_mask, matrix, Preprocessing(slice_step_mm=3.0))
    used = sorted(19 - k if flipped else k for k in s.slice_index)
    assert used == [first, first + 3, first + 6]


def test_slices_that_lose_all_pixels_on_resampling_are_not_counted():
    hu, mask = np.full((4, 40, 40), -900.0), np.zeros((4, 40, 40), np.uint8)
    mask[1, 5:35, 5:35] = 1
    mask[2, 20, 20] = mask[2, 20, 22] = 1  # at 4 mm one pixel, whose centre lies between the two
    s = extract_slices(hu, mask, axial_geometry((3, 0.5, 0.5)), Preprocessing(pixel_size_mm=4.0, min_roi_px=1))
    assert len(s) == s.roi_slices == 1


def test_bright_voxels_are_white():
    hu, mask = flat_tumour(3000.0)
    s = extract_slices(hu, mask, axial_geometry(SPACING))
    assert s.images.max() == 255 and np.count_nonzero(s.images[0] == 255) == 400 and s.mean_intensity[0] == 255


@pytest.mark.parametrize("size", [138, 139, 140, 141, 142])
def test_tumours_about_as_large_as_the_crop(size):
    """Centred; where a pixel is left over it goes to the lower right, where one is too many it is cut there."""
    hu, mask = np.full((1, 150, 150), -900.0), np.zeros((1, 150, 150), np.uint8)
    hu[0, 3 : 3 + size, 3 : 3 + size] = np.arange(size)
    mask[0, 3 : 3 + size, 3 : 3 + size] = 1
    s = extract_slices(hu, mask, axial_geometry((3, 1, 1)))
    offset = (140 - size) // 2
    expected = np.zeros(140)
    columns = np.rint((np.arange(size) + 160) / 400 * 255)
    kept = slice(max(offset, 0), max(offset, 0) + min(size, 140))
    expected[kept] = columns[-min(offset, 0) :][:140]
    np.testing.assert_array_equal(s.images[0][70], expected)
    assert np.count_nonzero(s.images[0].any(axis=1)) == min(size, 140)
