"""Spectra that are none of a star's: are they flagged?

    python benchmarks/xp_planted.py MODEL [--test 4] [--n 500]

MODEL is an emulator of `benchmarks/xp_labels.py`. Planted among the test shard's spectra are noise, flat spectra, a
continuum with redshifted emission lines as of a galaxy, and stars shifted by 10 nm or more. Printed is, for each, what
share is flagged, and the area under the ROC curve of the misfit and of the larger of misfit and extrapolation. Needs
the spectra in HBCAL_TEST_DATA.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from hbcal.emulator.files import load_emulator
from hbcal.label import label_spectra
from hbcal.spectra.container import Spectra
from hbcal.spectra.formats import read_any


def planted(stars: Spectra, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fluxes in units of their median, one kind of oddity each."""
    n, wave = len(stars.star), stars.wave
    noise = rng.normal(size=stars.flux.shape) * stars.flux_err
    red = 1.0 + rng.uniform(0.05, 0.3, (n, 1))
    lines = sum(
        rng.uniform(0.3, 2.0, (n, 1)) * np.exp(-0.5 * ((wave[None, :] - at * red) / 8.0) ** 2)
        for at in (372.7, 486.1, 500.7, 656.3)
    )
    shift = rng.integers(5, 20, n) * rng.choice([-1, 1], n)  # of 2 nm
    return {
        "noise": np.abs(1.0 + rng.normal(size=stars.flux.shape)),
        "flat": 1.0 + noise,
        "galaxy-like": (wave[None, :] / 600.0) ** rng.uniform(-1.5, 1.0, (n, 1)) + lines + noise,
        "shifted": np.stack([np.roll(f, s) for f, s in zip(stars.flux, shift, strict=True)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--test", type=int, default=4)
    parser.add_argument("--n", type=int, default=500)
    options = parser.parse_args()
    emulator = load_emulator(options.model)
    shard = Path(os.environ["HBCAL_TEST_DATA"]) / "spectra" / f"gaia_xp_apogee_{options.test}.npz"
    stars = read_any([shard]).take(slice(options.n))
    real = label_spectra(emulator, stars, fast=True)
    print(f"stars: {100 * float(real['flag'].mean()):.1f}% flagged")
    for name, flux in planted(stars, np.random.default_rng(0)).items():
        found = label_spectra(emulator, replace(stars, flux=flux), fast=True)
        truth = np.repeat([0, 1], options.n)
        both = lambda key, found=found: np.concatenate([real[key], found[key]])  # noqa: E731
        either = np.maximum(both("misfit_rank"), both("extrapolation"))
        print(
            f"{name}: {100 * float(found['flag'].mean()):.1f}% flagged, AUC of chi2 "
            f"{roc_auc_score(truth, both('chi2')):.4f}, of the larger rank {roc_auc_score(truth, either):.4f}"
        )


if __name__ == "__main__":
    main()
