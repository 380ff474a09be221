"""``cnn-survival pretrain``, ``finetune`` and ``crossvalidate``: training."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ..options import DONE, add_command, any_number, fraction, not_negative, positive, whole_number

PRETRAIN_DESCRIPTION = """\
Train the whole network on a cohort, as the paper pretrains it on lung cancer.

    cnn-survival pretrain STORE --output FOLDER

STORE is what 'cnn-survival prepare' made. Without further options everything is as in the paper: the best 2,500
slices, 50 epochs, batches of 32, Adam with a learning rate of 1e-4, no augmentation. FOLDER gets model.npz (the
weights), run.json (how they came about) and losses.csv. If the training is stopped, the same command goes on with it
and ends with the same weights. A run that is finished is not run again.
"""

FINETUNE_DESCRIPTION = """\
Train the last layer (627 values) on a second cohort and leave everything else as it is.

    cnn-survival finetune RUN STORE --output FOLDER

RUN is the folder that 'cnn-survival pretrain' wrote; STORE is the second cohort. 20 epochs, as in the paper.
"""

CROSSVALIDATE_DESCRIPTION = """\
Try settings of 'pretrain' on the training cohort alone.

    cnn-survival crossvalidate STORE --output FOLDER --folds 5 --at-epochs 5,10,20

Each patient is predicted by a network that was trained without this patient. FOLDER gets predictions.csv and
metrics.csv (concordance, IPA and others at 18 months, at each of the epochs).
"""


def add_pretrain(commands) -> None:
    summary = "train the network on a cohort"
    command = add_command(commands, "pretrain", _run_pretrain, summary, PRETRAIN_DESCRIPTION)
    _add_store_options(command)
    _add_training_options(command, epochs=50)
    _add_departures(command)
    _add_devices(command)


def add_finetune(commands) -> None:
    summary = "train the last layer on a second cohort"
    command = add_command(commands, "finetune", _run_finetune, summary, FINETUNE_DESCRIPTION)
    command.add_argument("run_folder", type=Path, metavar="RUN", help="the folder of a finished pretraining, or of a "
                         "bundle")  # fmt: skip
    _add_store_options(command)
    _add_training_options(command, epochs=20)


def add_crossvalidate(commands) -> None:
    summary = "try settings of 'pretrain' by cross-validation"
    command = add_command(commands, "crossvalidate", _run_crossvalidate, summary, CROSSVALIDATE_DESCRIPTION)
    _add_store_options(command)
    command.add_argument("--folds", type=whole_number, default=5, metavar="N", help="number of folds (default 5)")
    command.add_argument("--at-epochs", type=_whole_numbers, default=(), metavar="N,N", help="predict also after these "
                         "epochs, to see how long to train")  # fmt: skip
    command.add_argument("--max-slices", type=whole_number, default=20, metavar="N", help="slices per patient for the "
                         "patient's curve (default 20)")  # fmt: skip
    _add_training_options(command, epochs=50)
    _add_departures(command)


def _add_store_options(command) -> None:
    command.add_argument("store", type=Path, metavar="STORE", help="the cohort, made by 'cnn-survival prepare'")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the result goes")
    command.add_argument("--patients", type=Path, metavar="CSV", help="use only the patients in this table's column "
                         "patient_id")  # fmt: skip
    command.add_argument("--part", metavar="NAME", help="with --patients: only those whose column 'part' has this "
                         "name")  # fmt: skip
    command.add_argument("--seed", type=int, default=2020, metavar="N", help="start of all random numbers; the same "
                         "seed gives the same result (default 2020)")  # fmt: skip


def _add_training_options(command, epochs: int) -> None:
    group = command.add_argument_group("training (defaults: the paper's)")
    group.add_argument("--epochs", type=whole_number, default=epochs, metavar="N", help=f"default {epochs}")
    group.add_argument("--batch", type=whole_number, default=32, metavar="N", help="slices per step (default 32)")
    group.add_argument("--learning-rate", type=positive, default=1e-4, metavar="R", help="default 1e-4")
    if epochs == 50:
        group.add_argument("--best-slices", type=_whole_number_or_all, default=2500, metavar="N",
                           help="how many slices to keep, best ranked, or all (default 2500)")  # fmt: skip


def _add_departures(command) -> None:
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
                       "from F times PyTorch's, so that dropout does not drown what is to be learned")  # fmt: skip
    group.add_argument("--growth", type=not_negative, default=0.0, metavar="W", help="fine a network by W times what "
                       "a tumour's logit falls by when the tumour grows")  # fmt: skip
    group.add_argument("--refit-biases", action="store_true", help="at the end, fit the output biases to all slices "
                       "without dropout")  # fmt: skip


def _add_devices(command) -> None:
    group = command.add_argument_group("machine")
    group.add_argument("--accelerator", default="auto", metavar="NAME", help="cpu, cuda, mps or auto (default)")
    group.add_argument("--devices", type=whole_number, default=1, metavar="N", help="processes on this machine, a "
                       "device each (default 1); under torchrun and SLURM: theirs")  # fmt: skip
    group.add_argument("--nodes", type=whole_number, default=1, metavar="N", help="machines (default 1)")
    group.add_argument("--tensorboard", action="store_true", help="also log for TensorBoard (needs tensorboard)")


def _run_pretrain(options) -> int:
    from .. import training

    devices = training.Devices(options.accelerator, options.devices, options.nodes, options.tensorboard)
    run = training.pretrain(store_of(options), options.output, _settings(options), devices=devices)
    _say(run)
    return DONE


def _run_finetune(options) -> int:
    from .. import runs, training

    settings = training.Settings(options.epochs, options.batch, options.learning_rate, None, options.seed)
    _say(training.finetune(runs.load_run(options.run_folder), store_of(options), options.output, settings))
    return DONE


def _run_crossvalidate(options) -> int:
    from .. import crossvalidation

    table = crossvalidation.crossvalidate(
        store_of(options), options.output, _settings(options), options.folds, options.at_epochs, options.max_slices
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    return DONE


def store_of(options):
    """The store that the options name, or the part of it that --patients and --part choose."""
    from ..splits import chosen_part

    return chosen_part(options.store, options.patients, options.part)


def _settings(options):
    from ..training import Settings

    return Settings(**{f.name: getattr(options, f.name) for f in fields(Settings)})


def _say(run) -> None:
    cohort = run.info["cohort"]
    print(f"{cohort['patients']} patients ({cohort['deaths']} deaths), {cohort['slices']} slices, "
          f"{cohort['slices_kept']} kept, of {cohort['patients_kept']} patients.")  # fmt: skip
    for departure in run.info["departures"]:
        print(f"Departs from the paper: {departure}")
    print(f"Mean loss of the last epoch: {run.info['losses'][-1]:.4f}. The run is in '{run.folder}'.")


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(whole_number(part.strip()) for part in text.split(","))


def _whole_number_or_all(text: str) -> int | None:
    return None if text == "all" else whole_number(text)
