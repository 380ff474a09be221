"""The boxes of Slicer's panel, a file each, and two helpers: runner and painter. May import qt; computes nothing."""
