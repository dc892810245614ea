"""Nearby dwarfs, a random tenth of the measurements kept out: does `predict` know them, and better than offsets do?

    python benchmarks/nearby_dwarfs_heldout.py [--seed 1] [--run RUN] [--out FILE.json]

Asked are the measurements that another source which does not depend on others, and is not the one asked about, has for
the same star and label. The rivals, neither of which may use dependent sources to predict others: the median offset and
MAD scatter of each pair of sources, inverse-variance weighted; and offsets from weighted least squares. Each has its
scatter inflated by the factor that is best for it on the very measurements it is judged on. Log densities are clipped
below at -8; Teff is in units of 1,000 K. Needs the catalogue in HBCAL_TEST_DATA.
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
from hbcal.catalogue.target import Query

FILE = "nearby_dwarfs_long.csv.gz"
LEAST = 10


def mad(x: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(x - np.median(x))))


def log_normal(z: np.ndarray, sd: np.ndarray) -> np.ndarray:
    return -0.5 * (z / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)


def best_inflation(residual: np.ndarray, sd: np.ndarray) -> np.ndarray:
    factors = np.geomspace(0.5, 5.0, 60)
    scores = [np.clip(log_normal(residual, f * sd), -8, None).mean() for f in factors]
    return np.clip(log_normal(residual, factors[int(np.argmax(scores))] * sd), -8, None)


def pairwise(train: pd.DataFrame, asked: pd.DataFrame, dependent: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of each asked measurement; NaN where no source has enough stars in common with the one asked."""
    wide = train.pivot_table(index=["hip", "label"], columns="source", values="value")
    mean, sd = np.full(len(asked), np.nan), np.full(len(asked), np.nan)
    for (survey, label), rows in asked.groupby(["source", "label"]).indices.items():
        table = wide.xs(label, level="label").reindex(asked["hip"].iloc[rows])
        known = wide.xs(label, level="label")
        total, moment = np.zeros(len(rows)), np.zeros(len(rows))
        for other in wide.columns:
            if other == survey or other in dependent:
                continue
            difference = (known[survey] - known[other]).dropna().to_numpy()
            if len(difference) < LEAST:
                continue
            scatter = max(mad(difference), 1e-4)
            guess = table[other].to_numpy() + np.median(difference)
            there = np.isfinite(guess)
            total[there] += scatter**-2
            moment[there] += guess[there] * scatter**-2
        ok = total > 0
        mean[rows[ok]], sd[rows[ok]] = moment[ok] / total[ok], total[ok] ** -0.5
        # a pair's scatter holds that of the survey asked: averaging makes it no smaller than the best pair's
        others = [o for o in wide.columns if o != survey and o not in dependent]
        differences = [(known[survey] - known[o]).dropna().to_numpy() for o in others]
        best = min((mad(d) for d in differences if len(d) >= LEAST), default=np.nan)
        sd[rows[ok]] = np.maximum(sd[rows[ok]], best)
    return mean, sd


def least_squares(
    train: pd.DataFrame, asked: pd.DataFrame, dependent: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Offsets per source and label by weighted least squares over the stars in common, weights from their scatter."""
    mean, sd = np.full(len(asked), np.nan), np.full(len(asked), np.nan)
    for label, rows in asked.groupby("label").indices.items():
        table = train[train["label"] == label].pivot_table(index="hip", columns="source", values="value")
        voters = [s for s in table.columns if s not in dependent]
        y = table[voters].to_numpy()
        weight, offset = np.ones(len(voters)), np.zeros(len(voters))
        for _ in range(30):
            w = np.where(np.isfinite(y), weight, 0.0)
            z = np.nansum(w * (y - offset), axis=1) / np.where(w.sum(1) > 0, w.sum(1), np.nan)
            many = np.isfinite(y).sum(1) > 1
            r = (y - z[:, None])[many]
            offset = np.array([np.nanmean(r[:, j]) if np.isfinite(r[:, j]).any() else 0.0 for j in range(len(voters))])
            scatter = [mad(r[:, j][np.isfinite(r[:, j])] - offset[j]) if np.isfinite(r[:, j]).sum() >= LEAST else 1e3
                       for j in range(len(voters))]  # fmt: skip
            weight = np.maximum(np.array(scatter), 1e-3 * np.nanmedian(scatter)) ** -2.0
        truth = pd.Series(z, index=table.index)
        var = pd.Series(1.0 / np.where(w.sum(1) > 0, w.sum(1), np.nan), index=table.index)
        for survey in asked["source"].iloc[rows].unique():
            mine = rows[(asked["source"].iloc[rows] == survey).to_numpy()]
            residual = (table[survey] - truth).dropna().to_numpy() if survey in table else np.zeros(0)
            if len(residual) < LEAST:
                continue
            star = asked["hip"].iloc[mine]
            mean[mine] = truth.reindex(star).to_numpy() + np.median(residual)
            sd[mine] = np.sqrt(var.reindex(star).to_numpy() + max(mad(residual), 1e-4) ** 2)
    return mean, sd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", type=Path, help="a run of the nine tenths, to save fitting it again")
    parser.add_argument("--keep", type=Path, help="where to put the run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    frame = pd.read_csv(Path(os.environ["HBCAL_TEST_DATA"]) / "catalogues" / FILE)
    out = np.random.default_rng(options.seed).random(len(frame)) < 0.1
    train = frame[~out]
    recipe = hbcal.load_recipe("nearby_dwarfs")
    with tempfile.TemporaryDirectory() as scratch:
        if options.run:
            run = hbcal.open_run(options.run)
        else:
            train.to_csv(Path(scratch) / FILE, index=False)
            begun = time.time()
            say = lambda text: print(text, flush=True)  # noqa: E731
            run = hbcal.calibrate(recipe, scratch, options.keep or Path(scratch) / "run", progress=say)
            print(f"fit: {time.time() - begun:.0f} s")
    print(run.diagnostics_text, flush=True)

    dependent = recipe.dependent
    low = frame["label"].map({l: s.range[0] for l, s in recipe.labels.items()})
    high = frame["label"].map({l: s.range[1] for l, s in recipe.labels.items()})
    sane = (frame["value"] >= low) & (frame["value"] <= high)
    told = train[sane[~out] & ~train["source"].isin(dependent)].groupby(["hip", "label"])["source"].agg(set).to_dict()
    test = frame[out & sane]
    asked = test[[len(told.get((h, l), set()) - {s}) > 0 for h, l, s in test[["hip", "label", "source"]].to_numpy()]]
    asked = asked.reset_index(drop=True)
    begun = time.time()
    columns = (asked["hip"].astype(str), asked["source"], asked["label"])
    query = Query(
        *(c.to_numpy(object) for c in columns), asked["error"].to_numpy(float), asked["value"].to_numpy(float)
    )
    found = pd.DataFrame(dict(run.predict(query).columns))
    print(f"predict: {len(asked)} rows in {time.time() - begun:.0f} s")
    ok = found["reason"] == ""
    inside = (found["pit"] >= 0.05) & (found["pit"] <= 0.95)
    result: dict[str, object] = {
        "asked": len(asked), "answered": float(ok.mean()), "within_90": float(inside[ok].mean()),
        "reasons": found["reason"][~ok].value_counts().to_dict(), "passed": run.passed,
    }  # fmt: skip
    by_interval = ((found["q05"] <= asked["value"]) & (asked["value"] <= found["q95"]))[ok]
    result["interval_90"] = float(by_interval.mean())
    for name in ("label", "source"):
        for key, rows in asked[ok].groupby(name).indices.items():
            result[f"{name} {key}"] = (len(rows), float(by_interval.to_numpy()[rows].mean()))
    unit = np.where(asked["label"] == "teff", 1000.0, 1.0)
    ours = np.clip(found["log_density"] + np.log(unit), -8, None)
    value = asked["value"].to_numpy() / unit
    for name, rival in (("pairwise", pairwise), ("least squares", least_squares)):
        mean, sd = rival(train[sane[~out]], asked, dependent)
        both = np.isfinite(mean) & ok.to_numpy()
        theirs = best_inflation((value - mean / unit)[both], (sd / unit)[both])
        result[f"log density against {name}"] = (int(both.sum()), float(ours[both].mean()), float(theirs.mean()))
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
