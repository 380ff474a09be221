"""Training: the network, the last layer, cross-validation, and the runs that they write."""
