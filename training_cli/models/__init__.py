"""From a finished run to what others use: bundle, model card, other formats."""
