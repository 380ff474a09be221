"""Cohorts: downloaded, joined with follow-up, cut into slices, split by patient."""
