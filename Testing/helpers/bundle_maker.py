"""A bundle for tests: random weights, and every field of bundle.json filled in."""

import numpy as np

from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.hazards import exponential_edges
from CNNSurvivalLib.image_text import encode_images
from CNNSurvivalLib.network import GREY_SCALE, weight_shapes


def random_weights(n_intervals=19, seed=0):
    """Arrays of the right names and shapes, scaled so that the hazards differ between images."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(n_intervals).items():
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        else:
            value = rng.normal(0, 0.3, shape) + (1 if name.startswith("norm") and name.endswith(".weight") else 0)
        weights[name] = value.astype(np.float32)
    weights["output.bias"] = np.full(n_intervals, -2.5, np.float32)
    return weights


def made_images(count=2, size=140):
    """uint8 [count, size, size]: discs with a gradient, 0 outside, each elsewhere."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    images = [np.where((x - 9 * i) ** 2 + y**2 < (15 + 10 * i) ** 2, 120 + x + y / 2, 0) for i in range(count)]
    return np.clip(images, 0, 255).astype(np.uint8)


def bundle_info(weights=None, edges=None, **changes):
    """bundle.json of a random model (without what save_bundle fills in), with top-level fields replaced."""
    edges = exponential_edges() if edges is None else np.asarray(edges, float)
    weights = weights or random_weights(len(edges) - 1)
    images = made_images()
    info = {
        "name": "random",
        "title": "Random weights, for tests",
        "version": "1.0",
        "changes": ["1.0: first"],
        "created": "2026-01-01",
        "network": {"architecture": "zhang2020", "output": "hazard_logits", "input_scale": GREY_SCALE},
        "intervals": {"edges_days": edges.tolist()},
        "preprocessing": {
            "hu_window": [-160.0, 240.0],
            "pixel_size_mm": 1.0,
            "crop_px": 140,
            "min_roi_px": 250,
            "slice_step_mm": None,
            "ranking": "mean_percentile_rank_area_intensity",
        },
        "aggregation": {"method": "mean_survival", "max_slices": 20, "risk_time_days": min(547.875, edges[-1])},
        "cohorts": [
            {
                "name": "none",
                "use": "none",
                "patients": 0,
                "events": 0,
                "slices": 0,
                "sites": "none",
                "dates": "none",
                "source": "none",
                "licence": "none",
                "exclusions": "none",
            }
        ],
        "metrics": [],
        "reference_cohort": {
            "label": "100 invented patients",
            "kaplan_meier": {"time_days": [0, 400, 900, 2400], "survival": [1, 0.7, 0.5, 0.2]},
            "risk_quantiles": np.linspace(0.1, 0.9, 101).tolist(),
        },
        "self_test": {"images": encode_images(images), "hazards": NumpyEngine(weights).hazards(images).tolist()},
        "card": {
            **{
                key: "none"
                for key in ("intended_use", "disease", "treatment", "ct", "endpoint", "time_origin", "contours",
                            "external_validation", "calibration", "licence")
            },
            "out_of_scope": ["everything"],
            "limitations": ["random"],
            "citation": ["none"],
        },
        "training": {},
    }  # fmt: skip
    info.update(changes)
    return info


def population_info(name="here", title="Patients from here", **changes):
    """An entry of ``populations`` with every field, with fields replaced."""
    info = {
        "name": name,
        "title": title,
        "offset": 0.0,
        "reference_cohort": {
            "label": f"100 invented patients of {name}",
            "kaplan_meier": {"time_days": [0, 400, 900, 2400], "survival": [1, 0.7, 0.5, 0.2]},
            "risk_quantiles": np.linspace(0.1, 0.9, 101).tolist(),
        },
        "ranges": {"largest_area_px": [260, 5000], "volume_cc": [1, 400], "age_years": [40, 88]},
        "covariates": [
            {"name": "age_years", "label": "age", "unit": "years", "low": 18, "high": 110},
            {"name": "n_stage", "label": "N stage", "choices": {"N0": 0, "N1": 1, "N2": 2, "N3": 3}},
        ],
        "terms": [
            {"intercept": -2.0, "coefficients": {"age_years": 0.03}},
            {"intercept": -0.4, "coefficients": {"n_stage": 0.3}},
            {"intercept": -2.2, "coefficients": {"age_years": 0.028, "n_stage": 0.25}},
        ],
        "interval": {
            "level": 0.95,
            "score_mean": -1.0,
            "covariance": [[0.04, 0.01], [0.01, 0.09]],
            "network_variance": 0.01,
        },
        "metrics": [],
    }
    info.update(changes)
    return info


def bundle_info_2(populations=None, default=None, **changes):
    """bundle.json of format version 2: one network, several populations."""
    populations = populations or [
        population_info(),
        population_info("there", "Patients from there", offset=np.linspace(-1.5, -0.5, 19).tolist()),
    ]
    info = bundle_info(**changes)
    del info["reference_cohort"]
    return {**info, "populations": populations, "default_population": default or populations[0]["name"]}
