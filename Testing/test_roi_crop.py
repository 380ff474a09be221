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


def both(images, prepare=lambda network: None):
    """(plain network, windowed network) in double precision, alike, each with its logits after one backward pass."""
    torch.manual_seed(3)
    plain, fast = net.build_network().double(), net.build_network().double()
    prepare(plain)
    plain.dropout.p = 0.0
    fast.load_state_dict(plain.state_dict())
    results = []
    for network, logits in (
        (plain, plain.train()(net.network_input(images).double())),
        (fast, windowed.training_logits(fast.train(), images, windowed.find_windows(images))),
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


@pytest.fixture(autouse=True)
def double_precision(monkeypatch):
    original = windowed._Group.__init__

    def init(self, *arguments):
        original(self, *arguments)
        self.crop = self.crop.double()

    monkeypatch.setattr(windowed._Group, "__init__", init)


@pytest.mark.parametrize("prepare", [lambda network: None, negative_scales], ids=["fresh", "negative scales"])
def test_outputs_gradients_and_statistics_are_the_plain_networks(prepare):
    (plain, logits), (fast, fast_logits) = both(masked_slices(6), prepare)
    # The slices' grey levels are scaled in float32 on both sides; all else is float64.
    torch.testing.assert_close(fast_logits, logits, rtol=1e-9, atol=1e-9)
    for (name, one), two in zip(plain.named_parameters(), fast.parameters()):
        largest = float(one.grad.abs().max())
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-8, atol=1e-9 * largest, msg=name)
    for one, two in zip(plain.buffers(), fast.buffers()):
        torch.testing.assert_close(two, one)


def test_windows_hold_everything_that_differs_from_the_background():
    images = masked_slices(5)
    network = net.build_network().eval()
    with torch.no_grad():
        x = net.network_input(images)
        empty = net.network_input(np.zeros((1, 140, 140), np.uint8))
        maps, background = (
            torch.nn.functional.max_pool2d(network.conv2(network.norm1(network.conv1(v).relu())).relu(), 2)
            for v in (x, empty)
        )
    differs = (maps - background).abs().amax(dim=1).numpy() > 1e-5
    for inside, (top, left, rows, columns) in zip(differs, windowed.find_windows(images)):
        inside[top : top + rows, left : left + columns] = False
        assert not inside.any()


def test_dropout_keeps_the_mean_and_follows_its_generator():
    x = torch.ones(64, 8, 10, 10)
    one, same = (windowed._dropout(x, 0.3, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one, same)
    assert abs(float((one == 0).float().mean()) - 0.3) < 0.01
    assert abs(float(one.mean()) - 1) < 0.02
    assert windowed._dropout(x, 0.0, None) is x
