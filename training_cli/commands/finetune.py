"""``cnn-survival finetune``."""

from __future__ import annotations

from ..options import DONE, add_command
from .store_options import check_part_options, check_stores, open_part
from .training_options import FINETUNING_EPOCHS, add_store_options, add_training_options, print_run

DESCRIPTION = """\
Adapt the last layer (627 values) to another cohort and leave everything else as it is.

    cnn-survival finetune NETWORK STORE --output FOLDER
    cnn-survival finetune lung-head-neck STORE --output FOLDER

NETWORK is the folder that 'cnn-survival pretrain' wrote, the folder of a bundle, or the id of a model that ships with
this software ('cnn-survival models' lists them). STORE is the cohort to fine-tune on; its slices must be cut as the
network's were ('cnn-survival prepare --like NETWORK').

How much is learned (--learn):

  none        nothing: the network as it is
  shift       one number, added to the output of every interval: the same ranking, another level of risk
  offsets     a number for each interval
  last-layer  all of the last layer, drawn towards the network's; how strongly is chosen by cross-validation
  free        the paper's: all 627 values for 20 epochs (--epochs, --batch and --learning-rate are of this alone)
  auto        compares these by cross-validation on the store's patients, says what each gives, and takes the simplest
              of the first four that is not shown to be worse than the best; with few deaths that is little (default)
"""
LEARN = ("auto", "none", "shift", "offsets", "last-layer", "free")  # here, so that --help need not load PyTorch
FREE_ALONE = ("epochs", "batch", "learning_rate")


def add_finetune(commands) -> None:
    summary = "adapt the last layer to another cohort"
    command = add_command(commands, "finetune", _run, summary, DESCRIPTION)
    command.add_argument("network", metavar="NETWORK", help="the folder of a finished pretraining or of a bundle, or "
                         "the id of a model that ships")  # fmt: skip
    add_store_options(command)
    command.add_argument("--learn", choices=LEARN, default=LEARN[0], help="how much to learn (default auto)")
    command.add_argument("--also-trained-on", action="store_true", help="let auto compare on patients that the network "
                         "learned from, too")  # fmt: skip
    add_training_options(command, FINETUNING_EPOCHS)
    command.set_defaults(**dict.fromkeys(FREE_ALONE))  # None: not given


def _run(options) -> int:
    check_part_options(options)
    check_stores(options, "store")
    given = [name for name in FREE_ALONE if getattr(options, name) is not None]
    if given and options.learn != "free":
        options.parser.error(f"--{given[0].replace('_', '-')} goes with --learn free")
    from ..training.runs import check_free, check_not_learned_from, check_same_preprocessing, load_network

    # A run of --learn free has no "learn".
    check_free(options.output, kind="finetune", learn=None if options.learn == "free" else options.learn)
    network, store = load_network(options.network), open_part(options)
    check_same_preprocessing(network, store)  # before PyTorch is loaded, which takes long
    if options.learn == "auto" and not options.also_trained_on:
        check_not_learned_from(network, store)
    from dataclasses import replace

    from ..evaluation import finetuning
    from ..training import train as training

    settings = replace(training.FINETUNE, seed=options.seed, **{name: getattr(options, name) for name in given})
    print_run(
        finetuning.finetune(
            network, store, options.output, options.learn, settings, network.max_slices,
            also_trained_on=options.also_trained_on,
        )
    )  # fmt: skip
    return DONE
