"""The parts of the panel; they need Slicer with its window. Each shows and connects, and computes nothing."""
