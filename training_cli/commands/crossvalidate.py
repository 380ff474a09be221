"""``cnn-survival crossvalidate``."""

from __future__ import annotations

from ..options import DONE, add_command, whole_number
from .store_options import check_part_options, check_stores, open_part
from .training_options import (
    PRETRAINING_EPOCHS,
    add_departures,
    add_store_options,
    add_training_options,
    settings_of,
)

DESCRIPTION = """\
Try settings of 'pretrain' on the training cohort alone.

    cnn-survival crossvalidate STORE --output FOLDER --folds 5 --at-epochs 5,10,20

Each patient is predicted by a network that was trained without this patient. FOLDER gets predictions.csv and
metrics.csv (concordance, IPA and others at 18 months, at each of the epochs).
"""


def add_crossvalidate(commands) -> None:
    summary = "try settings of 'pretrain' by cross-validation"
    command = add_command(commands, "crossvalidate", _run, summary, DESCRIPTION)
    add_store_options(command)
    command.add_argument("--folds", type=whole_number, default=5, metavar="N", help="number of folds (default 5)")
    command.add_argument("--at-epochs", type=_whole_numbers, default=(), metavar="N,N", help="predict also after these "
                         "epochs, to see how long to train")  # fmt: skip
    command.add_argument("--max-slices", type=whole_number, default=20, metavar="N", help="slices per patient for the "
                         "patient's curve (default 20)")  # fmt: skip
    add_training_options(command, PRETRAINING_EPOCHS)
    add_departures(command)


def _run(options) -> int:
    check_part_options(options)
    check_stores(options, "store")
    from ..evaluation import crossvalidation

    store = open_part(options)
    table = crossvalidation.crossvalidate(
        store, options.output, settings_of(options), options.folds, options.at_epochs, options.max_slices
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    return DONE


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(whole_number(part.strip()) for part in text.split(","))
