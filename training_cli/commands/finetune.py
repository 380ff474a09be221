"""``cnn-survival finetune``."""

from __future__ import annotations

from ..options import DONE, add_command
from .store_options import check_part_options, open_part
from .training_options import FINETUNING_EPOCHS, add_store_options, add_training_options, print_run

DESCRIPTION = """\
Train the last layer (627 values) on another cohort and leave everything else as it is.

    cnn-survival finetune NETWORK STORE --output FOLDER
    cnn-survival finetune nsclc-balanced-pretrained STORE --output FOLDER

NETWORK is the folder that 'cnn-survival pretrain' wrote, the folder of a bundle, or the id of a model that ships with
this software ('cnn-survival models' lists them). STORE is the cohort to fine-tune on; its slices must be cut as the
network's were. 20 epochs, as in the paper.
"""


def add_finetune(commands) -> None:
    summary = "train the last layer on another cohort"
    command = add_command(commands, "finetune", _run, summary, DESCRIPTION)
    command.add_argument("network", metavar="NETWORK", help="the folder of a finished pretraining or of a bundle, or "
                         "the id of a model that ships")  # fmt: skip
    add_store_options(command)
    add_training_options(command, FINETUNING_EPOCHS)


def _run(options) -> int:
    check_part_options(options)
    from ..training.runs import load_network

    network, store = load_network(options.network), open_part(options)
    from ..training import train as training

    settings = training.Settings(
        epochs=options.epochs, batch=options.batch, learning_rate=options.learning_rate, best_slices=None,
        seed=options.seed,
    )  # fmt: skip
    print_run(training.finetune(network, store, options.output, settings))
    return DONE
