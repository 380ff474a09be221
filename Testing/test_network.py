"""The network is the paper's; both engines compute it."""

import numpy as np
import pytest

from bundle_maker import bundle_info, made_images, random_weights
from CNNSurvivalLib.bundle import save_bundle
from CNNSurvivalLib.engines import ENGINES, Engine, create_engine
from CNNSurvivalLib.errors import Cancelled, CNNSurvivalError
from CNNSurvivalLib.network import build_network, network_input, network_weights, weight_shapes
from CNNSurvivalLib.slices import Preprocessing, axial_geometry, extract_slices

torch = pytest.importorskip("torch")


@pytest.fixture(params=ENGINES)
def engine(request, tiny_bundle):
    return create_engine(request.param, tiny_bundle)


def test_the_network_has_the_papers_numbers_of_parameters():
    network = build_network()
    trainable = sum(p.numel() for p in network.parameters())
    statistics = sum(b.numel() for name, b in network.named_buffers() if "running" in name)
    assert (trainable, statistics, trainable + statistics) == (73_203, 384, 73_587)
    assert sum(p.numel() for p in network.output.parameters()) == 627
    assert sum(int(np.prod(shape)) for shape in weight_shapes().values()) == 73_587


def test_feature_maps_shrink_as_in_the_paper():
    network, sizes = build_network().eval(), []
    for layer in range(1, 7):
        getattr(network, f"conv{layer}").register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    network.hidden.register_forward_hook(lambda m, i, o: sizes.append(i[0].shape[-1]))
    assert network(network_input(made_images(1))).shape == (1, 19)
    assert sizes == [138, 136, 66, 64, 19, 17, 800]


def test_weights_survive_the_way_through_the_network():
    from CNNSurvivalLib.network import network_from_weights

    weights = random_weights()
    back = network_weights(network_from_weights(weights))
    assert list(back) == list(weights)
    assert all(np.array_equal(back[name], weights[name]) for name in weights)


def engines_differ_by(bundle, images):
    a, b = (create_engine(name, bundle).hazards(images) for name in ENGINES)
    assert a.shape == b.shape == (len(images), len(bundle.edges_days) - 1)
    return np.abs(a - b).max()


def test_engines_agree_wherever_the_tumour_lies(tiny_bundle):
    rng = np.random.default_rng(5)
    images = []
    for top, left in [(0, 0), (0, 139), (139, 0), (133, 133), (135, 70), (60, 3), (127, 129), (37, 41), (64, 68)]:
        image = np.zeros((140, 140), np.uint8)
        height, width = rng.integers(1, 60, 2)
        patch = image[top : top + height, left : left + width]
        patch[:] = rng.integers(0, 256, patch.shape)
        images.append(image)
    images += [np.zeros((140, 140), np.uint8), rng.integers(0, 256, (140, 140)).astype(np.uint8)]
    assert engines_differ_by(tiny_bundle, np.array(images)) < 1e-5


def test_engines_agree_on_real_slices(tiny_bundle, shared_data):
    sitk = pytest.importorskip("SimpleITK")
    folder = shared_data("data/nsclc")
    for patient in ("p002", "p005", "p011"):
        hu, roi = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{patient}_{n}.nrrd"))) for n in ("ct", "mask"))
        slices = extract_slices(hu, roi, axial_geometry((1, 1, 1)), Preprocessing(min_roi_px=50)).best(10)
        assert engines_differ_by(tiny_bundle, slices.images) < 1e-5


def test_other_intervals_need_only_other_edges(tmp_path):
    edges = [0, 100, 300, 600, 1200]
    bundle = save_bundle(tmp_path / "five", bundle_info(edges=edges), random_weights(4))
    assert engines_differ_by(bundle, made_images(2)) < 1e-5


def test_engines_reproduce_the_bundles_self_test(engine, tiny_bundle):
    images, expected = tiny_bundle.self_test
    np.testing.assert_allclose(engine.hazards(images), expected, rtol=0, atol=1e-5)


def test_progress_reaches_the_end_and_can_stop_the_engine(engine):
    told = []
    engine.hazards(np.repeat(made_images(1), 20, axis=0), told.append)
    assert told == sorted(told) and told[-1] == 1

    def stop(fraction):
        raise Cancelled

    with pytest.raises(Cancelled):
        engine.hazards(made_images(2), stop)


def test_unknown_engines_and_devices_are_refused(tiny_bundle):
    with pytest.raises(CNNSurvivalError, match="no engine 'jax'; choose one of numpy, torch"):
        create_engine("jax", tiny_bundle)
    with pytest.raises(CNNSurvivalError, match="device 'nonsense'"):
        create_engine("torch", tiny_bundle, device="nonsense")


@pytest.mark.parametrize("at", [(40, 50), (0, 0), (110, 100)])
def test_hiding_patches_one_by_one_is_hiding_them_in_whole_slices(tiny_bundle, at):
    """The built-in engine computes only what a patch changes; here against every slice computed as a whole."""
    image = np.zeros((140, 140), np.uint8)
    image[at[0] : at[0] + 30, at[1] : at[1] + 40] = np.random.default_rng(0).integers(1, 255, (30, 40))
    image[image < 40] = 0  # holes, too
    corners = [(at[0], at[1]), (at[0] + 11, at[1] + 3), (at[0] + 29, at[1] + 39), (0, 0), (139, 139), (60, 126)]
    patches = [(slice(row, row + size), slice(column, column + size)) for row, column in corners for size in (1, 14)]
    engine, told = create_engine("numpy", tiny_bundle), []
    found = engine.hazards_without(image, patches, told.append)
    assert told[-1] == 1 and len(told) == len(patches)
    np.testing.assert_allclose(found, Engine.hazards_without(engine, image, patches), rtol=0, atol=2e-6)
    assert np.ptp(found[:, 0]) > 1e-4


def test_hiding_no_patch_is_the_slice_itself(engine):
    image = made_images(1)[0]
    np.testing.assert_allclose(engine.hazards_without(image, []), engine.hazards(image[np.newaxis]), rtol=0, atol=1e-6)
