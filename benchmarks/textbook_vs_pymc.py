"""Recipe `textbook`, 1,000 stars: effective draws per second of hbcal against the same model in PyMC with z sampled.

    python benchmarks/textbook_vs_pymc.py [--n-star 1000] [--cap 1200]

hbcal's clock runs over the whole process of ``hbcal calibrate``: imports, checks, compilation, sampling, diagnostics,
figures. PyMC's clock runs over `pymc.sample` alone, its imports and model building are not counted. PyMC samples at
least 1,000 draws per chain and more until its R-hat is at most 1.05, or the cap in seconds is reached. Both numbers are
the smallest bulk ESS of the free globals divided by that time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from arviz_stats.base import array_stats

import hbcal


def worst(draws: dict[str, np.ndarray]) -> tuple[float, float]:
    """Smallest bulk ESS and largest R-hat over scalar quantities, each (chain, draw)."""
    ess = min(float(array_stats.ess(d, chain_axis=0, draw_axis=1, method="bulk")) for d in draws.values())
    r_hat = max(float(array_stats.rhat(d, chain_axis=0, draw_axis=1)) for d in draws.values())
    return ess, r_hat


def free_globals(run) -> dict[str, np.ndarray]:
    out = {}
    for name in ("offset", "trend", "error_scale", "floor"):
        values = run.posterior[name].transpose("chain", "draw", ...).to_numpy()
        flat = values.reshape(*values.shape[:2], -1)
        for j in range(flat.shape[2]):
            if np.isfinite(flat[:, :, j]).all() and np.ptp(flat[:, :, j]) > 0:
                out[f"{name}{j}"] = flat[:, :, j]
    return out


def time_hbcal(data: Path, out: Path) -> tuple[float, dict[str, np.ndarray]]:
    begun = time.monotonic()
    command = [sys.executable, "-m", "hbcal.cli", "calibrate", "textbook", "--data", str(data), "--out", str(out)]
    subprocess.run([*command, "--chains", "4", "--draws", "1000"], check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun, free_globals(hbcal.open_run(out))


def time_pymc(data: Path, cap: float) -> tuple[float, dict[str, np.ndarray]]:
    import pymc as pm

    rows = pd.read_parquet(data / "observations.parquet")
    stars = pd.read_parquet(data / "stars.parquet").set_index("star")
    index = {star: i for i, star in enumerate(stars.index)}
    star = rows["star"].map(index).to_numpy()
    survey = rows["survey"].map({"s0": 0, "s1": 1, "s2": 2}).to_numpy()
    x = stars[["x1", "x2"]].to_numpy()[star]
    y, error = rows["value"].to_numpy(), rows["error"].to_numpy()
    with pm.Model():
        mean, width = pm.Normal("mean", 0.0, 1.0), pm.HalfNormal("width", 1.0)
        # non-centred, the better of the two for PyMC here: 9.9 effective draws per second, centred 5.8
        z = mean + width * pm.Normal("z_white", 0.0, 1.0, shape=len(stars))
        offset = pm.Normal("offset", 0.0, 0.3, shape=2)
        trend = pm.Normal("trend", 0.0, 0.2, shape=(2, 2))
        scale = pm.LogNormal("error_scale", 0.0, 0.3, shape=2)
        floor = pm.HalfNormal("floor", 0.1, shape=2)
        which = np.maximum(survey - 1, 0)
        free = (survey > 0).astype(float)
        shift = free * (offset[which] + (trend[which] * x).sum(1))
        a2, t2 = 1.0 - free + free * scale[which] ** 2, free * floor[which] ** 2
        pm.Normal("y", z[star] + shift, pm.math.sqrt(a2 * error**2 + t2), observed=y)
        total, draws = 0.0, 1000
        while True:
            begun = time.monotonic()
            trace = pm.sample(
                draws=draws,
                tune=1000,
                chains=4,
                cores=2,
                progressbar=False,
                random_seed=1,
                compute_convergence_checks=False,
            )
            total = time.monotonic() - begun
            post = trace["posterior"]
            found = {}
            for name in ("offset", "trend", "error_scale", "floor"):
                flat = post[name].to_numpy().reshape(4, draws, -1)
                found |= {f"{name}{j}": flat[:, :, j] for j in range(flat.shape[2])}
            ess, r_hat = worst(found)
            print(f"PyMC: {draws} draws x 4, {total:.0f} s, bulk ESS {ess:.0f}, R-hat {r_hat:.3f}", flush=True)
            if r_hat <= 1.05 or 3 * total > cap:
                return total, found
            draws *= 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-star", type=int, default=1000)
    parser.add_argument("--cap", type=float, default=1200.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        hbcal.simulate("textbook", data, seed=1, n_star=options.n_star)
        seconds, draws = time_hbcal(data, Path(scratch) / "run")
        ess, r_hat = worst(draws)
        print(
            f"hbcal: {seconds:.1f} s, bulk ESS {ess:.0f}, R-hat {r_hat:.3f}: {ess / seconds:.1f} per second", flush=True
        )
        rival_seconds, rival = time_pymc(data, options.cap)
        rival_ess, rival_r_hat = worst(rival)
    rate = rival_ess / rival_seconds
    print(f"PyMC:  {rival_seconds:.1f} s, bulk ESS {rival_ess:.0f}, R-hat {rival_r_hat:.3f}: {rate:.2f} per second")
    print(f"ratio: {ess / seconds / rate:.0f}")


if __name__ == "__main__":
    main()
