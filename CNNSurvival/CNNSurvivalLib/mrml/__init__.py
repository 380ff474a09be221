"""Slicer's scene: nodes in, nodes out. May import slicer and vtk, inside functions."""
