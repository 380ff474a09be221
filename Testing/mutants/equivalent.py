"""Mutants that change nothing that a test could see, with the reason: (file, function, before, after) -> why."""

EQUIVALENT: dict[tuple[str, str, str, str], str] = {}
