"""What the network is compared with: the paper's two LASSO-Cox models, and simpler ones that a reviewer would ask for.

    radiomics   LASSO-Cox of PyRadiomics' features (the paper's model 1)
    outputs     LASSO-Cox of the network's outputs (the paper's model 2)
    volume      Cox of the logarithm of the tumour's volume alone
    clinical    Cox of stage and age, where the table has them

All are fitted on the same patients that the network is fine-tuned on. LASSO-Cox is scikit-survival's Coxnet; its
penalty is chosen by cross-validation on these patients alone, by the partial likelihood (van Houwelingen et al. 2006,
Stat Med 25:3201, as glmnet does). Concordance would not do: it is blind to how far coefficients are shrunk, so that a
model of one feature would come out with hardly any spread of risks, and with an IPA that is not its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis
from sksurv.util import Surv

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import ensure_output_folder, write_csv, write_json
from CNNSurvivalLib.hazards import kaplan_meier

from ..cohort.radiomics import cohort_features
from ..cohort.splits import fitting_folds
from ..cohort.store import Store
from ..options import BASELINES
from ..progress import progress
from ..training.runs import MAX_SLICES, Run, patient_outputs, risk_column

CLINICAL = ("age_years", "t_stage", "n_stage", "m_stage")
FEATURE_COLUMNS = ("model", "feature", "coefficient")
PENALTIES = 50  # on the path
SMALLEST_PENALTY = 0.05  # as a share of the smallest penalty that keeps nothing
RIDGE = 1e-3  # of plain Cox: keeps it finite where a feature splits the deaths from the rest


@dataclass(frozen=True)
class CoxModel:
    """A fitted Cox model. coefficients: of the standardised features, those that are not 0. penalty: None for plain
    Cox. folds: how the penalty was chosen."""

    columns: list[str]
    coefficients: dict[str, float]
    penalty: float | None
    medians: pd.Series
    pipeline: Pipeline | None
    curve: tuple[np.ndarray, np.ndarray]  # Kaplan-Meier of the training patients, for a model without features

    def risk(self, features: pd.DataFrame, horizon_days: float) -> np.ndarray:
        """Probability of death by the horizon, [n]; held constant past the training patients' last time."""
        if self.pipeline is None:
            times, survival = self.curve
            at = np.append(1.0, survival)[np.searchsorted(times, horizon_days, side="right")]
            return np.full(len(features), 1 - at)
        x = _filled(features[self.columns], self.medians)
        curves = self.pipeline.predict_survival_function(x)
        if horizon_days < curves[0].x[0]:  # before anybody's time: nobody has died
            return np.zeros(len(features))
        return np.array([1 - curve(min(horizon_days, curve.x[-1])) for curve in curves])


def fit_lasso_cox(features: pd.DataFrame, time, event, seed: int = 2020, folds: int = 5) -> CoxModel:
    """LASSO-Cox of standardised features [patients x features]; features without variance are left out.

    The penalty is the one with the highest cross-validated partial likelihood over stratified folds, the larger one
    of equals. Raises CNNSurvivalError where no feature varies or nobody died.
    """
    time, event = _checked_outcome(time, event)
    medians = features.median(numeric_only=True)
    x = _filled(features[medians.index], medians)
    x = x.loc[:, (x.std() > 1e-9 * x.abs().max()) & np.isfinite(x).all()]
    if x.shape[1] == 0:
        raise CNNSurvivalError("None of the features varies among the patients; there is nothing to choose from.")
    columns = list(x)
    fitted = _coxnet(x, time, event, None)
    penalties = fitted[-1].alphas_
    fold_of = fitting_folds(event, folds, seed)
    numbers = np.unique(fold_of)
    each = progress(numbers, len(numbers), f"Choosing LASSO's penalty for {x.shape[1]} features", "fold")
    scores = np.sum([_fold_scores(x, time, event, fold_of == fold, penalties) for fold in each], axis=0)
    penalty = float(penalties[int(np.argmax(np.round(scores, 9)))])  # penalties fall, so the first is the largest
    final = _coxnet(x, time, event, [penalty])
    weights = dict(zip(columns, final[-1].coef_[:, 0]))
    kept = {name: float(value) for name, value in weights.items() if value != 0}
    curve = kaplan_meier(time, event)
    return CoxModel(columns, kept, penalty, medians, final if kept else None, curve)


def fit_cox(features: pd.DataFrame, time, event) -> CoxModel:
    """Plain Cox of a few standardised features. Raises CNNSurvivalError where none varies or nobody died."""
    time, event = _checked_outcome(time, event)
    medians = features.median(numeric_only=True)
    x = _filled(features[medians.index], medians)
    x = x.loc[:, x.std() > 0]
    if x.shape[1] == 0:
        raise CNNSurvivalError("None of the features varies among the patients; there is nothing to fit.")
    fitted = make_pipeline(StandardScaler(), CoxPHSurvivalAnalysis(alpha=RIDGE)).fit(x, _outcome(time, event))
    weights = {name: float(value) for name, value in zip(x, fitted[-1].coef_)}
    return CoxModel(list(x), weights, None, medians, fitted, kaplan_meier(time, event))


def run(
    train: Store,
    test: Store,
    output,
    network: Run | None = None,
    models: Sequence[str] = BASELINES,
    horizons: Sequence[float] = (547.875,),
    seed: int = 2020,
    jobs: int = 1,
    max_slices: int = MAX_SLICES,
    tell: Callable[[str], None] = print,
) -> dict[str, CoxModel]:
    """Fit the models on one store's patients and predict another's; returns them by name.

    ``output`` gets predictions_<model>.csv, selected_features.csv, baselines.json and features.csv (radiomics, which
    is kept and not computed again). network: for the model 'outputs'. A model whose features the tables do not have
    is left out, and ``tell`` says so. Raises UsageError for a patient_id that is in both.
    """
    # Also where they are two patients of two hospitals: what is kept of a patient is found by patient_id.
    both = sorted(set(train.patient_ids) & set(test.patient_ids))
    if both:
        raise UsageError(
            f"Patient '{both[0]}' is among those to fit on and those to predict; list each in one part, and give "
            "patients of different cohorts different patient_ids."
        )
    output = ensure_output_folder(output)
    fitted: dict[str, CoxModel] = {}
    facts: dict[str, dict] = {}
    for name in models:
        features = [_features(name, store, output, network, max_slices, jobs, tell) for store in (train, test)]
        if name == "outputs" and network is None:
            tell("The model 'outputs' is left out: it needs a trained network (--network).")
            continue
        features = _in_both(name, *features, tell)
        if features[0].empty or features[1].empty:
            tell(f"The model '{name}' is left out: the two cohorts have no such features in common.")
            continue
        known = train.patients.loc[features[0].index]
        outcome = known["time_days"].to_numpy(float), known["event"].to_numpy() == 1
        lasso = name in ("radiomics", "outputs")
        model = fit_lasso_cox(features[0], *outcome, seed) if lasso else fit_cox(features[0], *outcome)
        fitted[name] = model
        facts[name] = {"features": int(features[0].shape[1]), "selected": len(model.coefficients),
                       "penalty": model.penalty, "patients": len(known), "deaths": int(outcome[1].sum())}  # fmt: skip
        table = _predictions(model, features[1], test, horizons)
        write_csv(output / f"predictions_{name}.csv", tuple(table), table.itertuples(index=False))
    rows = [(name, *item) for name, model in fitted.items() for item in _by_size(model.coefficients)]
    write_csv(output / "selected_features.csv", FEATURE_COLUMNS, rows)
    write_json(output / "baselines.json", facts)
    return fitted


# --- Features ---------------------------------------------------------------------------------------------------------


def _in_both(name: str, train: pd.DataFrame, test: pd.DataFrame, tell) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The features that both tables have; ``tell`` names those that only the training patients have."""
    common = [column for column in train if column in test]
    missing = [column for column in train if column not in test]
    if common and missing:
        tell(f"The model '{name}' goes without {', '.join(missing)}: the patients to predict have none.")
    return train[common], test[common]


def _features(name: str, store: Store, output: Path, network, max_slices, jobs, tell) -> pd.DataFrame:
    if name == "radiomics":
        return cohort_features(store, output / "features.csv", jobs, tell)
    if name == "outputs" and network is not None:
        values = patient_outputs(network.weights, store, max_slices)
        return pd.DataFrame(values, index=store.patients.index).add_prefix("output_")
    if name == "volume":
        volume = store.patients["volume_cc"].astype(float)
        return pd.DataFrame({"log_volume_cc": np.log(volume)})
    if name == "clinical":
        return clinical_features(store.patients)
    return pd.DataFrame(index=store.patients.index)


def clinical_features(patients: pd.DataFrame) -> pd.DataFrame:
    """Those of CLINICAL that the table has, as numbers; stages such as T2a by their digit."""
    found = {}
    for column in CLINICAL:
        if column in patients:
            text = patients[column].astype(str).str.extract(r"(\d+(?:\.\d+)?)", expand=False)
            numbers = pd.to_numeric(text, errors="coerce")
            if numbers.notna().any():
                found[column] = numbers
    return pd.DataFrame(found, index=patients.index)


# --- Inside -----------------------------------------------------------------------------------------------------------


def _coxnet(x: pd.DataFrame, time, event, penalties) -> Pipeline:
    """A fitted pipeline; penalties None lets Coxnet choose its path."""
    cox = CoxnetSurvivalAnalysis(
        l1_ratio=1.0, alphas=penalties, n_alphas=PENALTIES, alpha_min_ratio=SMALLEST_PENALTY,
        fit_baseline_model=penalties is not None, max_iter=20_000,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a penalty that keeps nothing is one of the choices
        return make_pipeline(StandardScaler(), cox).fit(x, _outcome(time, event))


def _fold_scores(x, time, event, held_out, penalties) -> np.ndarray:
    """What the held-out patients add to the partial likelihood at every penalty: that of all patients less that of
    the others, with the coefficients that the others gave."""
    fitted = _coxnet(x[~held_out], time[~held_out], event[~held_out], penalties)
    predictors = fitted[0].transform(x) @ fitted[-1].coef_
    scores = [
        partial_log_likelihood(time, event, column)
        - partial_log_likelihood(time[~held_out], event[~held_out], column[~held_out])
        for column in predictors.T
    ]
    found = np.full(len(penalties), -np.inf)  # Coxnet stops where smaller penalties no longer converge
    found[: len(scores)] = scores
    return np.nan_to_num(found, nan=-np.inf)


def partial_log_likelihood(time, event, predictor) -> float:
    """Cox's, with Breslow's rule for ties: the sum over deaths of the predictor less the log of the sum of
    exp(predictor) over those still followed. time, event, predictor: [n]."""
    order = np.argsort(-time, kind="stable")
    time, event, predictor = time[order], event[order], predictor[order]
    at_risk = np.logaddexp.accumulate(predictor)
    last_of_tie = np.searchsorted(-time, -time, side="right") - 1
    return float(np.sum((predictor - at_risk[last_of_tie])[event]))


def _checked_outcome(time, event) -> tuple[np.ndarray, np.ndarray]:
    time, event = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    if not event.any():
        raise CNNSurvivalError("None of the patients to fit on died; a Cox model needs deaths.")
    return time, event


def _outcome(time, event):
    return Surv.from_arrays(event=event, time=np.maximum(time, 0.5))  # a death on day 0 is one within the first day


def _filled(features: pd.DataFrame, medians: pd.Series) -> pd.DataFrame:
    return features.replace([np.inf, -np.inf], np.nan).fillna(medians[features.columns])


def _predictions(model: CoxModel, features: pd.DataFrame, store: Store, horizons) -> pd.DataFrame:
    known = store.patients.loc[features.index]
    risks = {risk_column(days): model.risk(features, float(days)) for days in horizons}
    return pd.DataFrame({"patient_id": list(features.index), "time_days": known["time_days"].to_numpy(float),
                         "event": known["event"].to_numpy(int), **risks})  # fmt: skip


def _by_size(coefficients: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(coefficients.items(), key=lambda item: -abs(item[1]))
