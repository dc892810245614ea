"""LAMOST: labels of 92 real low-resolution spectra, each from an emulator that its fold did not train.

    HBCAL_TEST_DATA=... python -W ignore benchmarks/lamost_labels.py [--folds 5]

Few stars with large errors of the pipeline (177 K, 0.49, 0.43 at the median): a test that the posterior stays honest,
not a contest. Spectra are brought to rest and divided by a smooth curve through themselves.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from hbcal.evaluation import summary
from hbcal.label import label_spectra
from hbcal.spectra.convert import Steps, prepare
from hbcal.spectra.packed import read_lamost_packed
from hbcal.training import train_emulator

FILE = Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "spectra" / "lamost_dr1_lrs.npz"
BAND = (4000.0, 6800.0)  # A
WIDTH = 80.0  # A, of the curve that spectra are divided by
COOL = (4200.0, 7200.0)  # K: hotter stars have other spectra, and are few


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folds", type=int, default=5)
    args = parser.parse_args()
    spectra = read_lamost_packed(FILE)
    teff = spectra.labels[:, spectra.label_names.index("teff")]
    whole = np.isfinite(spectra.about("rv")) & (teff > COOL[0]) & (teff < COOL[1])
    spectra = prepare(spectra.take(np.flatnonzero(whole)), Steps(frame="rest"))
    fold = np.random.default_rng(0).permutation(len(spectra.star)) % args.folds
    found = []
    for k in range(args.folds):
        with tempfile.TemporaryDirectory() as folder:
            emulator = train_emulator(
                spectra.take(fold != k), Path(folder) / "model", method="quadratic", noise="independent", wave=[BAND],
                normalise=WIDTH,
            )  # fmt: skip
        found.append(label_spectra(emulator, spectra.take(fold == k), fast=True))
        print(f"fold {k + 1}: chi2 per pixel {found[-1]['chi2'].to_numpy().mean():.2f}", flush=True)
    import xarray as xr

    labels = xr.concat(found, "star").sel(star=list(spectra.star))
    for label, each in summary(labels, spectra.labels, spectra.labels_err).items():
        print(f"{label:6s} " + "  ".join(f"{name} {value:.4g}" for name, value in each.items()))
    sd = np.sqrt(np.einsum("ill->il", labels["covariance"].to_numpy()))
    print(
        "median claimed sd",
        np.median(sd, axis=0).round(3),
        " median reported error",
        np.median(spectra.labels_err, axis=0),
    )


if __name__ == "__main__":
    main()
