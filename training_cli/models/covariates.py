"""The covariates that a population can take beside the image."""

from __future__ import annotations

from CNNSurvivalLib.populations import Covariate

# By the name of their column. A population takes those that its [[population]] table or ``recalibrate --covariates``
# names.
KNOWN_COVARIATES = {
    "age_years": Covariate("age_years", "age", "years", 18, 110),
    "n_stage": Covariate("n_stage", "N stage", "", 0, 3, {"N0": 0, "N1": 1, "N2": 2, "N3": 3}),
    "t_stage": Covariate("t_stage", "T stage", "", 0, 4, {"T0": 0, "T1": 1, "T2": 2, "T3": 3, "T4": 4}),
    "hpv": Covariate("hpv", "HPV", "", 0, 1, {"negative": 0, "positive": 1}),
}
