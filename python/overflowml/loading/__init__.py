"""Builds models without their weights: ordinary objects whose parameters say where in the files they come from."""
