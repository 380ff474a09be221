"""``cnn-survival export``."""

from __future__ import annotations

from pathlib import Path

from ..options import DONE, EXIT_CODES, add_command, print_table, whole_number
from .store_options import add_part_options, check_part_options, check_stores, open_part

DESCRIPTION = """\
Make a finished training into a model that others can use.

A bundle, for 'cnn-survival predict' and for 3D Slicer:

    cnn-survival export NETWORK --store STORE --name nsclc --title "Lung cancer" --output FOLDER

FOLDER gets the weights, bundle.json (everything about the model) and MODEL_CARD.md (the same, to read). Numbers of
patients and deaths, the Kaplan-Meier curve of the cohort and its predicted risks come from NETWORK and STORE, the
metrics from what 'cnn-survival evaluate' wrote. What no file can know, such as disease, treatment and licence, is in
the card, a TOML file. Where there is none, the command writes FOLDER-card.toml for you to complete, with what is known
from the model that NETWORK was fine-tuned from; then give the command again. Below is what a card holds.

For other software, from the folder of a finished training or of a bundle, or the id of a model that ships:

    cnn-survival export NETWORK --format onnx --format safetensors --format torchscript --output FOLDER

Each file is read back and compared with the network before it is written.
"""

CARD_EXAMPLE = """\
the card:
  disease = "Non-small cell lung cancer (NSCLC)"
  treatment = "Radiotherapy of inoperable stage I-IIIB tumours"
  ct = "Radiotherapy planning CT of the chest"
  endpoint = "Death from any cause"
  time_origin = "Start of treatment"
  contours = "Gross tumour volume, drawn by radiation oncologists"
  licence = "CC BY-NC 3.0, like the data: non-commercial research only"

  [cohorts.pretraining]         # also [cohorts.finetuning] and [cohorts.test], where there are such cohorts
  name = "NSCLC-Radiomics"
  sites = "MAASTRO Clinic, Maastricht, the Netherlands"
  dates = "not known"
  source = "Aerts et al. 2014, doi 10.7937/K9/TCIA.2015.PF0M9REI"
  licence = "CC BY-NC 3.0"
  exclusions = "..."            # may be left out

  These may be left out, and stand above the cohorts: reference_label (who the cohort beside a prediction is;
  {patients} stands for their number), external_validation, calibration, created; and the lists out_of_scope,
  limitations, citation and changes.

"""


def add_export(commands) -> None:
    summary = "make a trained network into a model that others can use"
    command = add_command(commands, "export", _run, summary, DESCRIPTION, CARD_EXAMPLE + EXIT_CODES)
    command.add_argument("network", metavar="NETWORK", help="the folder of a finished pretraining or fine-tuning; for "
                         "other formats than bundle also the folder of a bundle, or the id of a model that "
                         "ships")  # fmt: skip
    command.add_argument("--format", dest="formats", action="append", metavar="FORMAT",
                         choices=("bundle", "onnx", "safetensors", "torchscript"),
                         help="bundle (default), onnx, safetensors or torchscript; may be given several "
                         "times")  # fmt: skip
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the model goes")
    bundle = command.add_argument_group("bundle")
    bundle.add_argument("--store", type=Path, metavar="STORE", help="the cohort that is shown beside a prediction, as "
                        "a rule the one that NETWORK was trained on")  # fmt: skip
    add_part_options(bundle, store="STORE")
    bundle.add_argument("--card", type=Path, metavar="TOML", help="what no file can know, see below (default: "
                        "FOLDER-card.toml, beside --output); written for you to complete where there is "
                        "none")  # fmt: skip
    bundle.add_argument("--name", help="short name, without spaces")
    bundle.add_argument("--title", help="the name that people read")
    bundle.add_argument("--version", default="1.0", help="the model's version (default 1.0)")
    bundle.add_argument("--max-slices", type=whole_number, default=20, metavar="N", help="slices per patient for the "
                        "patient's curve (default 20)")  # fmt: skip
    test = command.add_argument_group("how good it is (bundle; may be left out, and the card then says so)")
    test.add_argument("--metrics", type=Path, metavar="CSV", help="metrics.csv of 'cnn-survival evaluate'")
    test.add_argument("--metrics-cohort", metavar="TEXT", help="of which patients the metrics are (default: the card's "
                      "test cohort)")  # fmt: skip
    test.add_argument("--calibration", type=Path, metavar="CSV", help="the calibration table of 'cnn-survival "
                      "evaluate' at 18 months")  # fmt: skip
    test.add_argument("--test-store", type=Path, metavar="STORE", help="the cohort that the metrics come from, for its "
                      "numbers")  # fmt: skip
    add_part_options(test, "test", "the test store")


def _run(options) -> int:
    formats = list(dict.fromkeys(options.formats or ["bundle"]))
    _check_options(options, formats)
    from ..progress import working
    from ..training.runs import load_network

    network, done = load_network(options.network), []
    inputs = _bundle_inputs(options, network) if "bundle" in formats else {}  # before anything is exported
    from ..models.formats import export_network
    from ..models.model_card import CARD_FILE

    for file_format in formats:
        if file_format == "bundle":
            bundle = _export_bundle(options, network, inputs)
            done.append(("bundle", f"{bundle.id}, checked; read '{bundle.folder / CARD_FILE}'"))
        else:
            with working(f"Exporting {file_format}"):
                exported = export_network(network, file_format, options.output)
            done.append((file_format, f"'{exported.path}', read back; hazards differ by {exported.difference:.1g} at "
                         "most"))  # fmt: skip
    print_table(done)
    return DONE


def _check_options(options, formats: list[str]) -> None:
    if "bundle" in formats:
        missing = [f"--{name}" for name in ("store", "name", "title") if getattr(options, name) is None]
        if missing:
            options.parser.error(f"a bundle needs {', '.join(missing)}")
    check_part_options(options, needs="store")
    check_part_options(options, "test", needs="test_store")
    check_stores(options, "store", "test_store")


def _bundle_inputs(options, network) -> dict:
    """The arguments of ``export_bundle`` that come from files; all that can be refused is refused here."""
    from ..models.bundle import check_other_model, read_calibration, read_metrics
    from ..models.card_file import card_path, complete_card
    from ..training.runs import check_same_preprocessing

    store = open_part(options)
    test = None if options.test_store is None else open_part(options, "test_store", "test")
    for opened in filter(None, (store, test)):
        check_same_preprocessing(network, opened)
    check_other_model(options.output, options.name)
    metrics = [] if options.metrics is None else read_metrics(options.metrics)
    calibration = None if options.calibration is None else read_calibration(options.calibration)
    path = card_path(options.card, options.output)
    card = complete_card(path, network, store, test is not None, options.title)
    return {"reference_store": store, "test_store": test, "metrics_rows": metrics, "calibration": calibration,
            "card": card}  # fmt: skip


def _export_bundle(options, network, inputs: dict):
    from ..models.bundle import export_bundle

    return export_bundle(
        network, **inputs, name=options.name, title=options.title, version=options.version, output=options.output,
        metrics_cohort=options.metrics_cohort, max_slices=options.max_slices,
    )  # fmt: skip
