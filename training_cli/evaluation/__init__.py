"""Scores: metrics, the evaluation of predictions, the models to compare with."""
