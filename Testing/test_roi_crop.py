"""The fast training pass is the plain network: same outputs, gradients and running statistics."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from CNNSurvivalLib import network as net  # noqa: E402
from training_cli.training import roi_crop as windowed  # noqa: E402


def masked_slices(n: int, seed: int = 0) -> np.ndarray:
    """Blobs of very different sizes; the first fills the slice, the last but one is a corner, the last is empty."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:140, :140]
    images = np.zeros((n, 140, 140), np.uint8)
    for number, image in enumerate(images[:-2]):
        radius = 100 if number == 0 else random.uniform(3, 45)
        inside = np.hypot(y - random.uniform(50, 90), x - random.uniform(50, 90)) < radius
        image[inside] = random.integers(0, 256, inside.sum())
    images[-2, 133:, 130:] = 200
    return images


def both(images, prepare=lambda network: None, dropout=0.0):
    """(plain network, windowed network) in double precision, alike, each with its logits after one backward pass."""
    torch.manual_seed(3)
    plain, fast = net.build_network().double(), net.build_network().double()
    prepare(plain)
    plain.dropout.p = 0.0
    fast.load_state_dict(plain.state_dict())
    windows, random = windowed.find_windows(images), np.random.default_rng(0)
    results = []
    for network, logits in (
        (plain, plain.train()(net.network_input(images).double())),
        (fast, windowed.training_logits(fast.train(), images, windows, dropout, random)),
    ):
        logits.square().sum().backward()
        results.append((network, logits.detach()))
    return results


def negative_scales(network) -> None:
    """Batch norms that turn values round: then a maximum before and after them differ."""
    with torch.no_grad():
        for layer in range(1, 7):
            getattr(network, f"norm{layer}").weight.mul_(torch.linspace(-1, 1, 32))
            getattr(network, f"norm{layer}").bias.add_(0.3)


# With this probability nothing is dropped, but no map is held as a window after the first block any more.
NO_WINDOWS = 1e-13


@pytest.mark.parametrize("dropout", [0.0, NO_WINDOWS], ids=["windows", "whole maps"])
@pytest.mark.parametrize("prepare", [lambda network: None, negative_scales], ids=["fresh", "negative scales"])
def test_outputs_gradients_and_statistics_are_the_plain_networks(prepare, dropout):
    (plain, logits), (fast, fast_logits) = both(masked_slices(6), prepare, dropout)
    # The slices' grey levels are scaled in float32 on both sides; all else is float64.
    torch.testing.assert_close(fast_logits, logits, rtol=1e-9, atol=1e-10)
    for (name, one), two in zip(plain.named_parameters(), fast.parameters()):
        largest = float(one.grad.abs().max())
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-9, atol=1e-10 * largest, msg=name)
    for one, two in zip(plain.buffers(), fast.buffers()):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10)


def test_tumours_at_every_place_of_the_pooling_grids():
    """Small ones at all alignments, and at the edge whose pixels fill no last cell of the poolings."""
    images = np.zeros((24, 140, 140), np.uint8)
    for number, image in enumerate(images):
        first = number + 40 if number < 18 else 140 - 3 * (number - 17)
        image[first : first + 4, 140 - first : 147 - first] = 50 + number
    (_, logits), (_, fast_logits) = both(images, negative_scales)
    torch.testing.assert_close(fast_logits, logits, rtol=1e-9, atol=1e-10)


def test_windows_hold_everything_that_differs_from_the_background():
    images = masked_slices(5)
    network = net.build_network().eval()
    maps, empty = net.network_input(images), net.network_input(np.zeros((1, 140, 140), np.uint8))
    windows = windowed.find_windows(images)
    assert all(not np.delete(image, slice(top, bottom), 0).any() and not np.delete(image, slice(left, right), 1).any()
               for image, (top, left, bottom, right) in zip(images, windows))  # fmt: skip
    for block, pool in enumerate(net.POOLS):
        size = maps.shape[-1]
        with torch.no_grad():
            for layer in (2 * block + 1, 2 * block + 2):
                conv, norm = getattr(network, f"conv{layer}"), getattr(network, f"norm{layer}")
                maps, empty = norm(conv(maps).relu()), norm(conv(empty).relu())
            maps, empty = (torch.nn.functional.max_pool2d(x, pool) for x in (maps, empty))
        differs = (maps - empty).abs().amax(dim=1).numpy() > 1e-5
        corners, cells, windows = windowed._pooled_windows(windows, size, pool)
        for inside, corner, (top, left, bottom, right) in zip(differs, corners, windows):
            assert (corner <= (top, left)).all() and (corner + cells >= (bottom, right)).all()
            assert (corner >= 0).all() and (corner + cells <= inside.shape).all()
            inside[top:bottom, left:right] = False
            assert not inside.any()


def test_dropout_keeps_the_mean_and_follows_its_generator():
    x = torch.ones(64, 8, 10, 10)
    one, same = (windowed._dropout(x, 0.3, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one, same)
    assert abs(float((one == 0).float().mean()) - 0.3) < 0.01
    assert abs(float(one.mean()) - 1) < 0.02
    assert windowed._dropout(x, 0.0, None) is x


@pytest.mark.parametrize("first, calls", [(1, [0.5, 0.5, 0.5]), (3, [0.5])])
def test_dropout_begins_after_the_block_that_is_asked_for(monkeypatch, first, calls):
    images, seen = masked_slices(4), []
    monkeypatch.setattr(windowed, "_dropout", lambda x, probability, random: seen.append(probability) or x)
    windows = windowed.find_windows(images)
    windowed.training_logits(net.build_network(), images, windows, 0.5, np.random.default_rng(0), first)
    assert seen == calls
