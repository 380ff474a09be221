"""Mutants that change nothing that a test could see, with the reason: (file, function, before, after) -> why."""

EQUIVALENT: dict[tuple[str, str, str, str], str] = {
    (
        "hazards",
        "restricted_mean_survival",
        "edges < horizon",
        "edges <= horizon",
    ): "the horizon is listed twice then; the interval between the two has no width",
    (
        "slices",
        "_resample",
        "1:",
        "2:",
    ): "the short cut where nothing is resampled is never taken then; the long way gives the same values",
    (
        "slices",
        "_crop",
        "(0, 0)",
        "(1, 0)",
    ): "the corner of a slice without ROI pixels; such slices are left out",
    (
        "slices",
        "_crop",
        "(0, 0)",
        "(0, 1)",
    ): "the corner of a slice without ROI pixels; such slices are left out",
    (
        "bundle",
        "_read_weights",
        "sum((member.file_size for member in archive.infolist())) > _MAX_WEIGHTS_BYTES",
        "sum((member.file_size for member in archive.infolist())) >= _MAX_WEIGHTS_BYTES",
    ): "an archive of exactly this size is not a model: it is refused either way, with another reason",
    (
        "bundle",
        "_npz",
        "False",
        "True",
    ): "allow_pickle matters for arrays of objects; these are of numbers",
}
