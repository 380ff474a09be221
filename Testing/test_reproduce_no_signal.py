"""The whole study on a cohort without a signal finds none. A file of its own, to run beside test_reproduce.py."""

from test_reproduce import CONFIG, metric, study


def test_without_a_signal_none_is_found(tmp_path):
    config = CONFIG.replace("crossvalidate = { epochs = 1 }\n", "").replace("pretrained_only = true\n", "")
    work = study(tmp_path, config, shuffled=True)
    assert abs(metric(work, "made-up", "concordance") - 0.5) < 0.2
