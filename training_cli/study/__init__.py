"""A whole study from one configuration file: its stages and its report."""
