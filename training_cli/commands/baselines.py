"""``cnn-survival baselines``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..options import BASELINES, DONE, add_command, days, usual_jobs, whole_number
from .store_options import add_part_options, check_part_options, check_stores, open_part

DESCRIPTION = """\
Fit what the network is compared with, and predict other patients with it.

    cnn-survival baselines --train STORE --test STORE --network NETWORK --output FOLDER

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
        add_part_options(command, part, f"the {part} store")
    command.add_argument("--network", metavar="NETWORK", help="for 'outputs': the folder of a finished training or of "
                         "a bundle, or the id of a model that ships")  # fmt: skip
    command.add_argument("--models", type=_models, default=BASELINES, metavar="NAME,NAME", help="which (default: all)")
    command.add_argument("--horizons", type=days, default=[547.875], metavar="DAYS,DAYS", help="default 547.875")
    command.add_argument("--jobs", type=whole_number, metavar="N", help="cases at once, for radiomics "
                         "(default: as many as there are cores)")  # fmt: skip
    command.add_argument("--seed", type=int, default=2020, metavar="N", help="of the folds (default 2020)")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the results go")


def _run(options) -> int:
    for part in ("train", "test"):
        check_part_options(options, part)
    check_stores(options, "train", "test")
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # the same numbers to the last bit on any number of cores
        return _baselines(options)


def _baselines(options) -> int:
    from ..training.runs import check_same_preprocessing, load_network

    network = load_network(options.network) if options.network else None
    stores = [open_part(options, part, part) for part in ("train", "test")]
    for store in stores if network else ():
        check_same_preprocessing(network, store)
    from ..evaluation import baselines

    fitted = baselines.run(
        *stores, options.output, network, options.models, options.horizons, options.seed, options.jobs or usual_jobs()
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
