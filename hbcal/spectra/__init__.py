"""Spectra: the plain container, and what reads into it."""
