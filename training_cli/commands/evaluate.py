"""``cnn-survival evaluate``."""

from __future__ import annotations

from pathlib import Path

from ..options import DONE, add_command, days, whole_number

DESCRIPTION = """\
Score predicted risks against what became of the patients.

    cnn-survival evaluate --predictions predictions.csv --horizons 365,547.875 --output FOLDER
    cnn-survival evaluate --model RUN_OR_BUNDLE --store STORE --output FOLDER

predictions.csv, from this software or any other, has a row per patient with patient_id, time_days, event (1 = died)
and a column risk_<days> per horizon, such as risk_365: the probability of death by then. What 'cnn-survival predict'
wrote will do as it is: risk_18m is the risk at 547.875 days. Follow-up may be in a table of its own (--clinical).

FOLDER gets metrics.csv (concordance index, IPA, Brier score and AUC at each horizon, with 95 % intervals from
resampling patients; the Brier score averaged over time, if there are several horizons), calibration_<days>.csv and,
of the first horizon, calibration.png (predicted against observed risk). With --model also predictions.csv, the
predicted risks.

Patients who were censored are made up for by those who were followed longer (Kaplan-Meier weights), as in the R
packages survival and riskRegression.
"""


def add_evaluate(commands) -> None:
    summary = "score predicted risks: concordance, IPA, Brier score, AUC, calibration"
    command = add_command(commands, "evaluate", _run, summary, DESCRIPTION)
    command.add_argument("--predictions", type=Path, metavar="CSV", help="predicted risks")
    command.add_argument("--clinical", type=Path, metavar="TABLE", help="with --predictions: the patients' follow-up "
                         "(patient_id, time_days, event; default: the predictions' own columns)")  # fmt: skip
    command.add_argument("--model", type=Path, metavar="FOLDER", help="instead: a run or a bundle to predict with")
    command.add_argument("--store", type=Path, metavar="STORE", help="with --model: the patients to predict")
    command.add_argument("--patients", type=Path, metavar="CSV", help="with --model: only these patients")
    command.add_argument("--part", metavar="NAME", help="with --patients: only those whose column 'part' says so")
    command.add_argument("--horizons", type=days, metavar="DAYS,DAYS", help="times at which to score, in days "
                         "(default: all that the predictions have; with --model 547.875, 18 months)")  # fmt: skip
    command.add_argument("--bootstrap", type=whole_number, default=1000, metavar="N", help="resamples for the "
                         "intervals (default 1000)")  # fmt: skip
    command.add_argument("--seed", type=int, default=2020, metavar="N", help="of the resamples (default 2020)")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the results go")


def _run(options) -> int:
    if (options.predictions is None) == (options.model is None):
        options.parser.error("give either --predictions, or --model and --store")
    if (options.model is None) != (options.store is None):
        options.parser.error("--model and --store go together")
    if options.model is None and (options.patients or options.part):
        options.parser.error("--patients and --part go with --model")
    if options.clinical and options.predictions is None:
        options.parser.error("--clinical goes with --predictions")
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # the same numbers to the last bit on any number of cores
        return _evaluate(options)


def _evaluate(options) -> int:
    from CNNSurvivalLib.files import ensure_output_folder, write_csv
    from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS

    from ..cohort.splits import chosen_part
    from ..evaluation import evaluate

    if options.predictions is not None:
        table, horizons = evaluate.read_predictions(options.predictions, options.horizons, options.clinical)
    else:
        horizons = options.horizons or [EIGHTEEN_MONTHS_DAYS]
        store = chosen_part(options.store, options.patients, options.part)
        table = evaluate.predict_store(options.model, store, horizons)
        path = ensure_output_folder(options.output) / evaluate.PREDICTIONS_FILE
        write_csv(path, tuple(table), table.itertuples(index=False))
    found = evaluate.evaluate(table, horizons, options.output, options.bootstrap, options.seed)
    print(f"{len(table)} patients, {int(table['event'].sum())} deaths")
    print(found.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}"))
    return DONE

