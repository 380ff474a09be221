"""The last layer on another cohort: what each kind learns, that it is solved, and which is chosen."""

import numpy as np
import pytest

for package in ("torch", "lightning", "pandas", "sklearn"):
    pytest.importorskip(package)

from bundle_maker import random_weights  # noqa: E402
from CNNSurvivalLib.hazards import exponential_edges, hazards_from_logits, survival_targets  # noqa: E402
from training_cli.training import last_layer  # noqa: E402

EDGES = exponential_edges()


def cohort(patients=200, shift=0.0, effect=0.0, seed=1, slices=3):
    """(weights, Features) of a made-up network whose logits are off by shift, and whose first feature is off by
    ``effect`` on every interval; outcomes drawn from the truth."""
    random = np.random.default_rng(seed)
    weights = random_weights()
    weights["output.weight"] = np.tile(random.normal(0, 0.15, 32).astype(np.float32), (19, 1))
    weights["output.bias"] = np.full(19, -2.6, np.float32)
    values = np.maximum(random.normal(0.5, 1, (patients, 32)), 0)
    truth = values @ weights["output.weight"].T + weights["output.bias"] + shift + effect * values[:, :1]
    dies = random.random((patients, 19)) < hazards_from_logits(truth)
    interval = np.where(dies.any(axis=1), dies.argmax(axis=1), 18)
    time, event = EDGES[interval] + 1.0, dies.any(axis=1)
    survived, died = survival_targets(time, event, EDGES)
    owner = np.repeat(np.arange(patients), slices)
    many = values[owner] + random.normal(0, 0.05, (patients * slices, 32))
    return weights, last_layer.Features(many, owner, np.full(len(owner), 1 / slices), survived, died, event)


def test_a_shift_is_recovered_and_moves_all_intervals_alike():
    weights, features = cohort(patients=800, shift=0.8)
    found = last_layer.fit(weights, features, "shift")
    moved = found.weights["output.bias"] - weights["output.bias"]
    assert found.converged and np.ptp(moved) < 1e-6 and moved[0] == pytest.approx(0.8, abs=0.15)
    assert found.weights["output.weight"] is weights["output.weight"]
    assert found.loss < last_layer.loss(weights, features)


def test_nothing_learned_changes_nothing():
    weights, features = cohort()
    found = last_layer.fit(weights, features, "none")
    assert found.weights == weights and found.loss == last_layer.loss(weights, features)


@pytest.mark.parametrize("rows", [1, 19])
def test_the_solution_is_a_minimum(rows):
    """No small step in any direction lowers the penalised loss: an independent check of the gradient."""
    weights, features = cohort(shift=0.5, effect=0.4)
    if rows == 19:
        weights["output.weight"] = weights["output.weight"] + np.random.default_rng(2).normal(
            0, 0.02, (19, 32)).astype(np.float32)  # fmt: skip
    found = last_layer.fit(weights, features, "last-layer", reach=0.3)
    assert found.converged
    spread = features.values.std(axis=0)

    def penalised(layer):
        moves = (layer["output.weight"].astype(float) - weights["output.weight"]) * spread
        offsets = layer["output.bias"].astype(float) - weights["output.bias"]
        # The shift is free, the trend has a prior of its own: the best ones for these offsets.
        left, line, sd, own = (
            offsets - offsets.mean(),
            np.linspace(-1, 1, 19),
            last_layer.OFFSET_SD,
            last_layer.TREND_SD,
        )
        trend = (left @ line / sd**2) / (line @ line / sd**2 + 1 / own**2)
        free = np.append((left - trend * line) ** 2, trend**2 * sd**2 / own**2)
        moved = np.sum(moves**2) / (19 if rows == 1 else 1)
        penalty = moved / 0.3**2 + free.sum() / last_layer.OFFSET_SD**2
        return last_layer.loss(layer, features) + penalty / (2 * features.patients)

    best, random = penalised(found.weights), np.random.default_rng(5)
    for _ in range(20):
        step = dict(found.weights)
        move = random.normal(0, 0.02, (rows, 32))
        step["output.weight"] = found.weights["output.weight"] + np.broadcast_to(move, (19, 32))
        step["output.bias"] = found.weights["output.bias"] + random.normal(0, 0.02, 19)
        assert penalised(step) >= best - 1e-7


def test_one_row_of_weights_stays_one_row():
    weights, features = cohort(effect=0.5)
    found = last_layer.fit(weights, features, "last-layer", reach=0.3)
    assert np.all(found.weights["output.weight"] == found.weights["output.weight"][0])


def test_reach_is_none_where_there_is_nothing_to_learn_and_more_where_there_is():
    assert last_layer.best_reach(*cohort(patients=200), seed=1) == 0
    assert last_layer.best_reach(*cohort(patients=400, effect=0.8), seed=1) >= 0.1


def test_patients_count_alike_whatever_their_slices():
    """A patient's slices given twice changes nothing."""
    weights, features = cohort(shift=0.4)
    twice = last_layer.Features(
        np.concatenate([features.values, features.values[features.owner == 0]]),
        np.append(features.owner, [0] * 3),
        np.append(np.where(features.owner == 0, 1 / 6, features.weight), [1 / 6] * 3),
        features.survived, features.died, features.event,
    )  # fmt: skip
    one, two = (last_layer.fit(weights, each, "offsets").weights["output.bias"] for each in (features, twice))
    assert one == pytest.approx(two, abs=1e-4)
