"""Nodes in, nodes out: what knows a MRML scene. May import slicer and vtk, inside functions."""
