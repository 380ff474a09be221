"""The options of a training: no command, but what pretrain, finetune and crossvalidate share."""

from __future__ import annotations

from pathlib import Path

from ..options import any_number, fraction, not_negative, positive, whole_number
from .store_options import add_part_options

PRETRAINING_EPOCHS, FINETUNING_EPOCHS = 50, 20  # the paper's


def add_store_options(command) -> None:
    """Declare the store, the output folder and the seed."""
    command.add_argument("store", type=Path, metavar="STORE", help="the cohort, made by 'cnn-survival prepare'")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the result goes")
    add_part_options(command, store="STORE")
    command.add_argument("--seed", type=int, default=2020, metavar="N", help="start of all random numbers; the same "
                         "seed gives the same result (default 2020)")  # fmt: skip


def add_training_options(command, epochs: int) -> None:
    """Declare how to train; ``epochs`` is the paper's number of them."""
    group = command.add_argument_group("training (defaults: the paper's)")
    group.add_argument("--epochs", type=whole_number, default=epochs, metavar="N", help=f"default {epochs}")
    group.add_argument("--batch", type=whole_number, default=32, metavar="N", help="slices per step (default 32)")
    group.add_argument("--learning-rate", type=positive, default=1e-4, metavar="R", help="default 1e-4")
    if epochs == PRETRAINING_EPOCHS:
        group.add_argument("--best-slices", type=_whole_number_or_all, default=2500, metavar="N",
                           help="how many slices to keep, best ranked, or all (default 2500)")  # fmt: skip


def add_departures(command) -> None:
    """Declare the settings that the paper does not have."""
    group = command.add_argument_group("departures from the paper (all off; the result names those that are on)")
    group.add_argument("--balanced", type=whole_number, default=0, metavar="N", help="an epoch draws N slices of every "
                       "patient, so that large tumours do not count more")  # fmt: skip
    group.add_argument("--augment", action="store_true", help="flip and turn the slices at random, and vary their "
                       "brightness by 10 %%")  # fmt: skip
    group.add_argument("--dropout", type=fraction, default=0.5, metavar="P", help="the paper's is 0.5")
    group.add_argument("--weight-decay", type=not_negative, default=0.0, metavar="R", help="as in AdamW")
    group.add_argument("--marginal-start", action="store_true", help="start from the cohort's own hazards instead of "
                       "one half each")  # fmt: skip
    group.add_argument("--average-from", type=whole_number, default=0, metavar="EPOCH", help="average the weights of "
                       "the epochs from this one on")  # fmt: skip
    group.add_argument("--recalibrate", action="store_true", help="measure the batch norms' statistics anew at the "
                       "end, without dropout")  # fmt: skip
    group.add_argument("--dropout-from", type=int, choices=(1, 2, 3), default=1, help="dropout after the blocks from "
                       "this one on (the paper's: after all three); with 3, training takes half the time")  # fmt: skip
    group.add_argument("--shared-output", action="store_true", help="one row of output weights for all intervals, and "
                       "a bias for each: proportional odds")  # fmt: skip
    group.add_argument("--hidden-bias", type=any_number, default=None, metavar="B", help="start the hidden layer's "
                       "biases evenly spread from 0 to B, so that some of its units stay active")  # fmt: skip
    group.add_argument("--output-start", type=positive, default=1.0, metavar="F", help="start the last layer's weights "
                       "from PyTorch's times F")  # fmt: skip
    group.add_argument("--refit-biases", action="store_true", help="fit the output biases to all slices at the end")
    group.add_argument("--growth", type=not_negative, default=0.0, metavar="W", help="penalise a network by W times "
                       "what a tumour's logit falls by when the tumour grows")  # fmt: skip


def settings_of(options):
    """The Settings of a pretraining; the options have the names of its fields."""
    from dataclasses import fields

    from ..training.train import Settings

    return Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})


def print_run(run) -> None:
    """Print the slices of a finished training, its departures from the paper and its loss."""
    cohort = run.info["cohort"]
    print(f"{cohort['patients']} patients ({cohort['deaths']} deaths), {cohort['slices']} slices, "
          f"{cohort['slices_kept']} kept, of {cohort['patients_kept']} patients.")  # fmt: skip
    for departure in run.info["departures"]:
        print(f"Departs from the paper: {departure}")
    what = "Mean loss per patient" if "learned" in run.info else "Mean loss of the last epoch"
    print(f"{what}: {run.info['losses'][-1]:.4f}. The run is in '{run.folder}'.")


def _whole_number_or_all(text: str) -> int | None:
    return None if text == "all" else whole_number(text)
