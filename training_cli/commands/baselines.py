"""``cnn-survival baselines``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..options import BASELINES, DONE, add_command, days, whole_number

DESCRIPTION = """\
Fit what the network is compared with, and predict other patients with it.

    cnn-survival baselines --train STORE --test STORE --network RUN --output FOLDER

    radiomics   LASSO-Cox of PyRadiomics' features (the paper's model 1)
    outputs     LASSO-Cox of the network's outputs (the paper's model 2; needs --network)
    volume      Cox of the logarithm of the tumour's volume alone
    clinical    Cox of age_years, t_stage, n_stage and m_stage, as far as the table has them

The penalty of LASSO-Cox is chosen by cross-validation on the training patients alone. FOLDER gets
predictions_<model>.csv (score them with 'cnn-survival evaluate'), selected_features.csv, baselines.json and
features.csv (PyRadiomics' features, kept so that they are computed once).
"""


def add_baselines(commands) -> None:
    summary = "fit what the network is compared with: LASSO-Cox, volume, clinical"
    command = add_command(commands, "baselines", _run, summary, DESCRIPTION)
    for part, use in (("train", "fit on"), ("test", "predict")):
        command.add_argument(f"--{part}", type=Path, required=True, metavar="STORE", help=f"the patients to {use}")
        command.add_argument(f"--{part}-patients", type=Path, metavar="CSV", help="only these of them")
        command.add_argument(f"--{part}-part", metavar="NAME", help=f"with --{part}-patients: only those whose column "
                             "'part' says so")  # fmt: skip
    command.add_argument("--network", type=Path, metavar="RUN", help="for 'outputs': the folder of a finished training")
    command.add_argument("--models", type=_models, default=BASELINES, metavar="NAME,NAME", help="which (default: all)")
    command.add_argument("--horizons", type=days, default=[547.875], metavar="DAYS,DAYS", help="default 547.875")
    command.add_argument("--jobs", type=whole_number, default=1, metavar="N", help="cases at once, for radiomics")
    command.add_argument("--seed", type=int, default=2020, metavar="N", help="of the folds (default 2020)")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the results go")


def _run(options) -> int:
    from ..cohort.splits import chosen_part
    from ..evaluation import baselines
    from ..training import runs

    stores = [
        chosen_part(getattr(options, part), getattr(options, f"{part}_patients"), getattr(options, f"{part}_part"))
        for part in ("train", "test")
    ]
    network = runs.load_run(options.network) if options.network else None
    fitted = baselines.run(
        *stores, options.output, network, options.models, options.horizons, options.seed, options.jobs
    )
    for name, model in fitted.items():
        print(f"{name}: {len(model.coefficients)} of {len(model.columns)} features")
    return DONE


def _models(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no model '{unknown[0]}'; choose among {', '.join(BASELINES)}")
    return names
