"""``cnn-survival evaluate``."""

from __future__ import annotations

import re
from pathlib import Path

from CNNSurvivalLib.errors import existing

from ..options import DONE, add_command, count, days
from .store_options import add_part_options, check_part_options, check_stores, open_part

DESCRIPTION = """\
Score predicted risks against the patients' follow-up.

    cnn-survival evaluate --predictions predictions.csv --horizons 365.25,547.875 --output FOLDER
    cnn-survival evaluate --model NETWORK --store STORE --output FOLDER

predictions.csv, from this software or any other, has a row per patient with patient_id, time_days, event (1 = died)
and a column risk_<days> per horizon, such as risk_365: the probability of death by then. What 'cnn-survival predict'
wrote will do as it is: risk_18m is the risk at 547.875 days, survival_12m gives that at 365.25 days (a month has
30.4375). Follow-up may be in a table of its own (--clinical).

FOLDER gets, with 95 % intervals from resampling patients:

  metrics.csv            at each horizon: concordance (Harrell's, Uno's), AUC and its average over time, Brier score,
                         IPA, observed / expected deaths, calibration intercept and slope, ICI, E50, E90;
                         the Brier score averaged over time, if there are several horizons;
                         p of D-calibration, with 5 horizons or more (with --model always, of the whole curves)
  calibration_<days>.csv, calibration_curve.csv, calibration.png    observed against predicted risk
  decision_curve.csv, decision_curve.png    net benefit by threshold
  auc_curve.csv, d_calibration.csv          AUC over time; the bins of D-calibration
  predictions.csv                           with --model: the predicted risks

Controls: --permutations adds the concordance of outcomes shuffled among the patients (concordance_shuffled: mean and
95 % range; concordance_p: one-sided p). --shuffle-voxels predicts again with the grey values of each tumour shuffled
inside its contour, so from shape and histogram without texture: metrics_shuffled_voxels.csv, and
differences_shuffled_voxels.csv (the model less that).

A bundle predicts with the weights of one of its populations (--population; default: the bundle's own), from the image
alone. Patients that the network learned from are refused unless --also-trained-on: scores on them say nothing about new
patients. So are those of a predictions.csv of a model that ships.

Censored patients are accounted for by weighting the others (inverse probability of censoring, Kaplan-Meier), as in the
R packages survival and riskRegression.
"""


def add_evaluate(commands) -> None:
    summary = "score predicted risks: ranking, calibration, net benefit, with intervals"
    command = add_command(commands, "evaluate", _run, summary, DESCRIPTION)
    command.add_argument("--predictions", type=Path, metavar="CSV", help="predicted risks")
    command.add_argument("--clinical", type=Path, metavar="TABLE", help="with --predictions: the patients' follow-up "
                         "(patient_id, time_days, event; default: the predictions' own columns)")  # fmt: skip
    command.add_argument("--model", metavar="NETWORK", help="instead: what to predict with, the folder of a finished "
                         "training or of a bundle, or the id of a model that ships")  # fmt: skip
    command.add_argument("--store", type=Path, metavar="STORE", help="with --model: the patients to predict")
    command.add_argument("--population", metavar="NAME", help="with --model: whose weights of a bundle to use "
                         "(default: the bundle's default)")  # fmt: skip
    command.add_argument("--also-trained-on", action="store_true", help="score patients that the network learned from, "
                         "too")  # fmt: skip
    add_part_options(command, store="STORE")
    command.add_argument("--horizons", type=days, metavar="DAYS,DAYS", help="times at which to score, in days "
                         "(default: all that the predictions have; with --model 547.875, 18 months)")  # fmt: skip
    command.add_argument("--bootstrap", type=count, default=1000, metavar="N", help="resamples for the intervals "
                         "(default 1000; 0: no intervals)")  # fmt: skip
    command.add_argument("--permutations", type=count, default=0, metavar="N", help="control: shuffle outcomes among "
                         "patients N times (default 0)")  # fmt: skip
    command.add_argument("--shuffle-voxels", action="store_true", help="control, with --model: grey values shuffled "
                         "inside the contours")  # fmt: skip
    command.add_argument("--seed", type=int, default=2020, metavar="N", help="of all that is drawn (default 2020)")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the results go")


def _run(options) -> int:
    if (options.predictions is None) == (options.model is None):
        options.parser.error("give either --predictions, or --model and --store")
    if (options.model is None) != (options.store is None):
        options.parser.error("--model and --store go together")
    if options.model is None and (options.patients or options.part or options.shuffle_voxels):
        options.parser.error("--patients, --part and --shuffle-voxels go with --model")
    if options.model is None and options.population:
        options.parser.error("--population goes with --model")
    if options.clinical and options.predictions is None:
        options.parser.error("--clinical goes with --predictions")
    check_part_options(options)
    check_stores(options, "store")
    for path, what in ((options.predictions, "predictions"), (options.clinical, "clinical table")):
        if path is not None:
            existing(path, what)
    if options.model is not None:
        from ..training.runs import network_for

        network_for(options.model, options.population)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # the same numbers to the last bit on any number of cores
        return _evaluate(options)


def _evaluate(options) -> int:
    from ..evaluation import evaluate

    if options.predictions is not None:
        table, horizons = evaluate.read_predictions(
            options.predictions, options.horizons, options.clinical, also_trained_on=options.also_trained_on
        )
    else:
        table, horizons = _predict(options)
    found = evaluate.evaluate(
        table, horizons, options.output, options.bootstrap, options.seed, permutations=options.permutations
    )
    print(f"{len(table)} patients, {int(table['event'].sum())} deaths")
    _print(found)
    if options.shuffle_voxels:
        _shuffle_voxels(options, table, horizons)
    return DONE


def _predict(options):
    """(the table of predictions, with risks at the network's edges as well; the horizons). Writes predictions.csv."""
    from CNNSurvivalLib.files import ensure_output_folder, write_csv
    from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS

    from ..evaluation import evaluate
    from ..training import runs

    horizons = options.horizons or [EIGHTEEN_MONTHS_DAYS]
    network, store = evaluate.network_for(options.model, options.population), open_part(options)
    if not options.also_trained_on:
        runs.check_not_learned_from(network, store)
    if network.bundle is not None:
        hint = "" if options.population else " (the model's default)"
        print(f"Population: {network.bundle.population.title}{hint}")
    times = list(dict.fromkeys([*horizons, *(float(edge) for edge in network.edges_days[1:])]))
    table = evaluate.predict_store(options.model, store, times, population=options.population)
    kept = table[[*table.columns[:3], *(runs.risk_column(days) for days in horizons)]]
    path = ensure_output_folder(options.output) / evaluate.PREDICTIONS_FILE
    write_csv(path, tuple(kept), kept.itertuples(index=False))
    return table, horizons


def _shuffle_voxels(options, table, horizons) -> None:
    from CNNSurvivalLib.files import write_csv

    from ..evaluation import controls, metrics

    tables = controls.shuffled_voxel_scores(
        options.model, open_part(options), table, horizons, options.bootstrap, options.seed, print,
        options.population,
    )  # fmt: skip
    for name, found in zip(("metrics_shuffled_voxels", "differences_shuffled_voxels"), tables):
        rows = found.astype(object).where(found.notna(), None).itertuples(index=False)
        write_csv(options.output / f"{name}.csv", metrics.COLUMNS, rows)
        print(f"\n{name}")
        _print(found)


def _print(table) -> None:
    """One format for each column: days as they are, the rest with four decimals."""
    days = {"horizon_days": lambda value: f"{value:g}"}
    text = table.to_string(index=False, na_rep="-", formatters=days, float_format=lambda value: f"{value:.4f}")
    print(re.sub(r"-(0\.0+)\b", r" \1", text))
