"""The boxes of Slicer's panel and their parts; helpers: runner, painter, predict_button.

May import qt; computes nothing.
"""
