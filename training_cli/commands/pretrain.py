"""``cnn-survival pretrain``."""

from __future__ import annotations

from ..options import DONE, add_command, whole_number
from .store_options import check_part_options, check_stores, open_part
from .training_options import (
    PRETRAINING_EPOCHS,
    add_departures,
    add_store_options,
    add_training_options,
    print_run,
    settings_of,
)

DESCRIPTION = """\
Train the whole network on a cohort, as the paper pretrains it on lung cancer.

    cnn-survival pretrain STORE --output FOLDER

STORE is what 'cnn-survival prepare' made. Without further options everything is as in the paper: the best 2,500
slices, 50 epochs, batches of 32, Adam with a learning rate of 1e-4, no augmentation. FOLDER gets model.npz (the
weights), run.json (settings, cohort, versions) and losses.csv. If the training is stopped, the same command continues
it and ends with the same weights. A run that is finished is not run again.
"""


def add_pretrain(commands) -> None:
    summary = "train the network on a cohort"
    command = add_command(commands, "pretrain", _run, summary, DESCRIPTION)
    add_store_options(command)
    add_training_options(command, PRETRAINING_EPOCHS)
    add_departures(command)
    _add_devices(command)


def _add_devices(command) -> None:
    group = command.add_argument_group("machine")
    group.add_argument("--accelerator", default="auto", metavar="NAME", help="cpu, cuda, mps or auto (default)")
    group.add_argument("--devices", type=whole_number, default=1, metavar="N", help="processes on this machine, a "
                       "device each (default 1); under torchrun and SLURM: theirs")  # fmt: skip
    group.add_argument("--nodes", type=whole_number, default=1, metavar="N", help="machines (default 1)")
    group.add_argument("--tensorboard", action="store_true", help="also log for TensorBoard (needs tensorboard)")


def _run(options) -> int:
    check_part_options(options)
    check_stores(options, "store")
    from ..training import train as training

    devices = training.Devices(options.accelerator, options.devices, options.nodes, options.tensorboard)
    store = open_part(options)
    run = training.pretrain(store, options.output, settings_of(options), devices=devices)
    print_run(run)
    return DONE
