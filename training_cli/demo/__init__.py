"""``make demo``: a made-up patient, and the whole way once."""
