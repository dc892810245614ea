"""Kepler giants, ten-fold: calibrated raw APOGEE log g against the seismic log g of stars the fit has not seen.

    python benchmarks/kepler_tenfold.py [--recipe kepler_giants_robust] [--folds 10] [--out FILE.json]

Each fold's seismic values are emptied, the recipe is fitted to the rest, and applied to the fold. Then the stars
below log g 1.8 are left out and the fit is applied there. Needs the catalogue in HBCAL_TEST_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import hbcal

FILE = "kepler_giants_apogee_seismic.csv.gz"


def robust_sd(x: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(x - np.median(x))))


def fit_and_apply(
    frame: pd.DataFrame, test: np.ndarray, folder: Path, seed: int, recipe: str
) -> tuple[pd.DataFrame, str]:
    """Fit without the seismic values of `test`, apply to `test`; the columns apply writes, and the diagnostics."""
    folder.mkdir()
    train = frame.copy()
    train.loc[test, ["LOGG_SEIS", "SIG_LOGG_SEIS"]] = ""
    train.to_csv(folder / FILE, index=False)
    frame[test].drop(columns=["LOGG_SEIS", "SIG_LOGG_SEIS"]).to_csv(folder / "test.csv", index=False)
    run = hbcal.calibrate(recipe, folder, folder / "run", seed=seed)
    columns = run.apply(folder / "test.csv", "apogee").columns
    return pd.DataFrame(dict(columns)), run.diagnostics_text


def figures_of_merit(table: pd.DataFrame, frame: pd.DataFrame) -> dict[str, float]:
    seismic = frame["LOGG_SEIS"].astype(float).to_numpy()
    error = frame["SIG_LOGG_SEIS"].astype(float).to_numpy()
    answered = np.isfinite(table["logg"].to_numpy())
    table, seismic, error = table[answered], seismic[answered], error[answered]
    residual = table["logg"].to_numpy() - seismic
    z = residual / np.hypot(table["logg_err"].to_numpy(), error)
    return {
        "n": len(seismic),
        "refused": int((~answered).sum()),
        "robust_sd": robust_sd(residual),
        "median": float(np.median(residual)),
        "z_robust_sd": robust_sd(z),
        "within_68": float(((table["logg_q16"] <= seismic) & (seismic <= table["logg_q84"])).mean()),
        "within_95": float(((table["logg_q025"] <= seismic) & (seismic <= table["logg_q975"])).mean()),
        "mean_err": float(table["logg_err"].mean()),
        "extrapolated": float((table["extrapolated"] > 0).mean()),
        "extrapolated_mean": float(table["extrapolated"].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="kepler_giants")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--only-extrapolation", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    source = Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "catalogues" / FILE
    frame = pd.read_csv(source, dtype=str, keep_default_na=False)
    fold = np.random.default_rng(20).permutation(len(frame)) % options.folds
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        parts = []
        for k in range(0 if options.only_extrapolation else options.folds):
            begun = time.time()
            test = fold == k
            table, diagnostics = fit_and_apply(frame, test, Path(scratch) / f"fold{k}", k, options.recipe)
            parts.append(table.set_index(np.flatnonzero(test)))
            print(f"fold {k}: {time.time() - begun:.0f} s, {diagnostics}", flush=True)
        if parts:
            whole = pd.concat(parts).sort_index()
            state = frame["CONS_EVSTATES"].replace("", "unknown")
            results["all"] = figures_of_merit(whole, frame)
            for name in ("RGB", "RC", "unknown"):
                results[name] = figures_of_merit(whole[state == name], frame[state == name])
        low = frame["LOGG_SEIS"].astype(float).to_numpy() < 1.8
        table, diagnostics = fit_and_apply(frame, low, Path(scratch) / "low", 0, options.recipe)
        print(f"without log g < 1.8: {diagnostics}")
        results["below_1.8"] = figures_of_merit(table, frame[low])
    for name, row in results.items():
        print(name, {k: round(v, 4) for k, v in row.items()})
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
