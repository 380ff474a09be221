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
}
