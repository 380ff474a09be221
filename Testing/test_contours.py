"""The rasteriser of contours against matplotlib's point-in-polygon test and shapes that are known."""

import numpy as np
import pytest

from CNNSurvivalLib.io.contours import rasterise


def grid(spacing=(1.0, 1.0, 3.0), origin=(0.0, 0.0, 0.0)):
    """ijk_to_lps, 4 x 4, of a volume along the body's axes."""
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


def placed(matrix, points_ij, k):
    """Points (i, j) of the plane k, in LPS mm."""
    points = np.column_stack([points_ij, np.full(len(points_ij), k), np.ones(len(points_ij))])
    return (points @ matrix.T)[:, :3]


def star(seed, centre=(15.3, 12.6), corners=9, size=10):
    """A polygon with reflex corners, [n, 2] (i, j)."""
    random = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = random.uniform(0.25, 1, corners) * size
    return np.column_stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)])


def disc(radius, centre=(15.0, 15.0), corners=90):
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.column_stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)])


def inside(polygon, shape):
    """bool [j, i]: whether a pixel's centre is in the polygon, by matplotlib."""
    path = pytest.importorskip("matplotlib.path").Path
    j, i = np.indices(shape)
    return path(polygon).contains_points(np.column_stack([i.ravel(), j.ravel()])).reshape(shape)


@pytest.mark.parametrize("seed", range(8))
def test_pixels_whose_centres_are_inside_and_no_others(seed):
    matrix = grid((0.8, 1.3, 2.5), (-7, 5, 11))
    polygon = star(seed, centre=(14.3 + seed, 13.6))
    mask, warnings = rasterise([placed(matrix, polygon, 2)], (5, 28, 34), matrix)
    np.testing.assert_array_equal(mask[2], inside(polygon, (28, 34)))
    assert mask.sum() == mask[2].sum() > 20 and mask.dtype == np.uint8 and warnings == ()


@pytest.mark.parametrize("direction", [1, -1])
def test_of_centres_on_the_contour_those_at_the_left_and_the_top_are_in(direction):
    matrix, square = grid((0.8, 1.3, 2.5), (-7, 5, 11)), np.array([(5, 5), (15, 5), (15, 15), (5, 15)])[::direction]
    mask, _ = rasterise([placed(matrix, square, 2)], (5, 28, 34), matrix)
    expected = np.zeros((28, 34), np.uint8)
    expected[5:15, 5:15] = 1
    np.testing.assert_array_equal(mask[2], expected)
    diamond = np.array([(10, 5), (15, 10), (10, 15), (5, 10)])[::direction]
    mask, _ = rasterise([placed(matrix, diamond, 2)], (5, 28, 34), matrix)
    assert mask.sum() == 50, "as many pixels as the area is large"


@pytest.mark.parametrize("centre", [(1, 12), (33, 12), (15, 1), (15, 27), (0, 0), (34, 28)])
def test_what_lies_off_the_grid_is_cut_off(centre):
    matrix = grid()
    polygon = star(3, centre=(centre[0] + 0.3, centre[1] + 0.2))
    mask, _ = rasterise([placed(matrix, polygon, 1)], (3, 28, 34), matrix)
    np.testing.assert_array_equal(mask[1], inside(polygon, (28, 34)))
    assert mask.any()


def test_contours_of_one_plane_are_joined_by_exclusive_or():
    matrix = grid()
    polygons = [disc(10.2), disc(6.3), disc(2.4), disc(3.3, centre=(29.2, 15))]
    contours = [placed(matrix, polygon, 1 + 0.01 * n) for n, polygon in enumerate(polygons)]  # 0.09 mm apart at most
    mask, _ = rasterise(contours, (3, 31, 34), matrix)
    ring = inside(polygons[0], (31, 34)) ^ inside(polygons[1], (31, 34)) ^ inside(polygons[2], (31, 34))
    np.testing.assert_array_equal(mask[1], ring ^ inside(polygons[3], (31, 34)))


def test_vertices_on_pixel_centres_are_in_on_one_side_alone():
    """A square of 4 x 5 pixels between centres has 20 pixels, on every side."""
    square = np.array([[3, 4], [7, 4], [7, 9], [3, 9]], float)
    for corners in (square, square[::-1], np.roll(square, 1, axis=0)):
        mask, _ = rasterise([placed(grid(), corners, 1)], (3, 12, 12), grid())
        assert mask.sum() == 20


@pytest.mark.parametrize("across", [0, 1, 2])
@pytest.mark.parametrize("flipped", [False, True])
def test_planes_across_any_axis_of_the_volume(across, flipped):
    """A block whose contours are drawn across i, j or k; stored forwards or backwards along k."""
    matrix = grid((1.0, 1.5, 2.0))
    if flipped:
        matrix[2, 2], matrix[2, 3] = -2.0, 22.0
    low, high = np.array([2.5, 3.5, 1.5]), np.array([6.5, 8.5, 5.5])
    u, v = (axis for axis in (0, 1, 2) if axis != across)
    contours = []
    for position in range(int(low[across] + 0.5), int(high[across] + 0.5)):
        corners = np.zeros((4, 3))
        corners[:, across] = position
        corners[:, u], corners[:, v] = [low[u], high[u], high[u], low[u]], [low[v], low[v], high[v], high[v]]
        contours.append((np.column_stack([corners, np.ones(4)]) @ matrix.T)[:, :3])
    mask, _ = rasterise(contours, (12, 13, 14), matrix)
    expected = np.zeros((12, 13, 14), np.uint8)
    expected[2:6, 4:9, 3:7] = 1
    np.testing.assert_array_equal(mask, expected)


def test_a_slice_between_two_planes_gets_the_shape_between():
    """Radii 4 and 10 on slices 0 and 3: 6 and 8 on slices 1 and 2; with pixels that are not square, too."""
    for spacing in ((1.0, 1.0, 3.0), (0.5, 1.0, 3.0)):
        matrix = grid(spacing)
        stretch = np.array([1.0 / spacing[0], 1.0])
        contours = [placed(matrix, disc(r, centre=(16, 16)) * stretch, k) for r, k in ((4, 0), (10, 3), (10, 6))]
        mask, warnings = rasterise(contours, (7, 33, int(33 / spacing[0])), matrix)
        area = mask.sum(axis=(1, 2)) * spacing[0] * spacing[1]
        expected = np.pi * np.array([4, 6, 8, 10, 10, 10, 10]) ** 2
        np.testing.assert_allclose(area, expected, rtol=0.15)
        assert warnings == ()


def test_a_gap_up_to_one_and_a_half_spacings_is_filled_and_a_larger_one_is_named():
    matrix = grid((1.0, 1.0, 1.0))

    def slices_of(positions):
        mask, warnings = rasterise([placed(matrix, disc(6), k) for k in positions], (24, 31, 31), matrix)
        return np.flatnonzero(mask.any(axis=(1, 2))).tolist(), warnings

    filled, warnings = slices_of([2, 4, 6, 9, 11])
    assert filled == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11] and warnings == ()
    filled, warnings = slices_of([2, 4, 6, 10, 12])
    assert filled == [2, 3, 4, 5, 6, 10, 11, 12]
    (warning,) = warnings
    assert "lie 2.0 mm apart but leave 1 larger gap of up to 4.0 mm" in warning
    filled, (warning,) = slices_of([2, 4, 6, 10, 12, 17, 19])
    assert "leave 2 larger gaps of up to 5.0 mm" in warning


@pytest.mark.parametrize(
    "position, slices",
    [(3.0, [3]), (3.4, [3]), (3.5, [3]), (3.6, [4]), (2.6, [3]), (2.5, [2]), (2.4, [2]), (-0.4, [0]), (-0.6, [])],
)
def test_a_plane_between_slices_counts_on_the_nearest_once(position, slices):
    matrix = grid()
    mask, _ = rasterise([placed(matrix, disc(6), position)], (7, 31, 31), matrix)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == slices


def test_planes_closer_to_each_other_than_to_any_slice_still_count():
    matrix = grid()
    mask, _ = rasterise([placed(matrix, disc(6.3), k) for k in (2.30, 2.34, 2.38)], (7, 31, 31), matrix)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [2]
    np.testing.assert_array_equal(mask[2], inside(disc(6.3), (31, 31)))


@pytest.mark.parametrize("degrees", [20, 35])
def test_oblique_contours_keep_their_place_and_volume(degrees):
    """Discs across a tilted axis: a cylinder with 9 mm radius and 16 mm height, about the volume's middle."""
    angle = np.radians(degrees)
    axis, side = np.array([0, np.sin(angle), np.cos(angle)]), np.array([0, np.cos(angle), -np.sin(angle)])
    middle = np.array([20.0, 20.0, 20.0])
    around = disc(9, centre=(0, 0))
    contours = [
        middle + height * axis + around[:, :1] * np.array([1.0, 0, 0]) + around[:, 1:] * side
        for height in np.arange(-7, 8, 2.0)
    ]
    mask, warnings = rasterise(contours, (41, 41, 41), grid((1.0, 1.0, 1.0)))
    places = np.argwhere(mask)[:, ::-1]
    assert warnings == ()
    np.testing.assert_allclose(places.mean(axis=0), middle, atol=0.3)
    along = (places - middle) @ axis
    across = np.linalg.norm(places - middle - along[:, None] * axis, axis=1)
    assert np.abs(along).max() < 9 and across.max() < 10
    # The outermost planes reach half a slice further; on which side of a voxel they end, the grid decides.
    assert mask.sum() == pytest.approx(np.pi * 81 * 15.2, rel=0.06)
