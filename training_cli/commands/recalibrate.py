"""``cnn-survival recalibrate``."""

from __future__ import annotations

from pathlib import Path

from ..options import DONE, add_command
from .store_options import add_part_options, check_part_options, check_stores, open_part

DESCRIPTION = """\
Add a site's own patients to a model, as a population that its predictions are calibrated for.

    cnn-survival recalibrate BUNDLE STORE --name my-site --title "NSCLC, my hospital" --output NEWBUNDLE
    cnn-survival predict --model NEWBUNDLE --population my-site --image CT --mask MASK --output FOLDER

BUNDLE is a bundle's folder, or the id of a model that ships with this software ('cnn-survival models' lists them);
the new population starts from its default one. STORE is made by 'cnn-survival prepare' with the model's settings. The
network stays as it is: all its hazards are shifted (--kind shift), or each interval's (--kind offsets); where you do
not say, the one with the smaller cross-validated loss is taken. Ranking stays what it was, unless covariates are asked
for. Says from how many patients and deaths, and what it does to concordance and IPA on patients left out of the fit.
"""
KINDS = ("shift", "offsets")  # here, so that --help need not load what fits them


def add_recalibrate(commands) -> None:
    summary = "calibrate a model for a site's own patients"
    command = add_command(commands, "recalibrate", _run, summary, DESCRIPTION)
    command.add_argument("model", metavar="BUNDLE", help="a bundle's folder, or the id of a model that ships")
    command.add_argument("store", type=Path, metavar="STORE", help="the site's patients, made by "
                         "'cnn-survival prepare'")  # fmt: skip
    add_part_options(command, store="STORE")
    command.add_argument("--name", required=True, metavar="NAME", help="the new population's short name, for "
                         "--population")  # fmt: skip
    command.add_argument("--title", required=True, metavar="TEXT", help="the name that people read")
    command.add_argument("--kind", choices=KINDS, help="what is fitted (default: chosen by cross-validation)")
    command.add_argument("--covariates", type=_names, default=(), metavar="NAME,NAME", help="columns of the store's "
                         "patients that the population takes beside the image: age_years, n_stage, t_stage, "
                         "hpv")  # fmt: skip
    command.add_argument("--default", action="store_true", help="make it the model's default population")
    command.add_argument("--few", action="store_true", help="fewer than 10 deaths will do")
    command.add_argument("--also-trained-on", action="store_true", help="patients that the network learned "
                         "from will do")  # fmt: skip
    command.add_argument("--seed", type=int, default=2020, metavar="N", help="of folds and resamples (default 2020)")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the new bundle goes")


def _run(options) -> int:
    check_part_options(options)
    check_stores(options, "store")
    from ..training.runs import load_network

    load_network(options.model)  # before the slow imports: a mistake is reported at once
    from ..models.recalibrate import described, recalibrate

    found = recalibrate(
        options.model, open_part(options), options.output, options.name, options.title, kind=options.kind,
        covariates=options.covariates, default=options.default, few=options.few,
        also_trained_on=options.also_trained_on, seed=options.seed,
    )  # fmt: skip
    for line in described(found):
        print(line)
    return DONE


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
