"""Checks of any program or posterior: simulation-based calibration, coverage, predictive checks. Knows no program."""
