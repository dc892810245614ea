"""Synthetic spectra: Turbospectrum on MARCS atmospheres, and readers of the published MARCS and PHOENIX grids."""
