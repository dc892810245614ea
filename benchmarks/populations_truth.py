"""Populations whose truth is known: five overlapping ones, errors of 0.4 of their width, some elements missing.

    python benchmarks/populations_truth.py [--seeds 10] [--nuts 2] [--missing 0.0 0.2] [--rivals] [--out FILE.json]

Per generator seed 3,000 stars with 6 elements are fitted by the fast mode, and for the first few seeds by NUTS, too;
3,000 more are held out. Printed are, beside those of the oracle (the true mixture, convolved with each star's errors),
the adjusted Rand index of the point partition and the log predictive density per held-out star; the 90% interval of the
number of populations with 1% of the stars; of pairs of stars that are given 0.75 to 0.85 to be together, how many are;
the time. With ``--rivals`` the same for scikit-learn's BayesianGaussianMixture and HDBSCAN and for extreme
deconvolution with K by BIC, written here after Bovy, Hogg and Roweis 2011.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture

from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.abundances import Abundances
from hbcal.population_recipe import parse_populations
from hbcal.populations import populations

N, D, WEIGHT, WIDTH = 3000, 6, np.array([0.45, 0.25, 0.15, 0.10, 0.05]), 0.08
NAMES = tuple(f"x{i}" for i in range(D))


def world(seed: int, missing: float) -> dict[str, Any]:
    """The true mixture and two samples of it, one to fit and one held out."""
    rng, k = np.random.default_rng(seed), len(WEIGHT)
    mean, covariance = 0.17 * rng.normal(size=(k, D)), np.zeros((k, D, D))
    for j in range(k):
        root = rng.normal(size=(D, D))
        full = root @ root.T / D + 0.3 * np.eye(D)
        sd = WIDTH * np.exp(0.3 * rng.normal(size=D)) / np.sqrt(np.diag(full))
        covariance[j] = full * np.outer(sd, sd)
    root = np.linalg.cholesky(covariance)
    out: dict[str, Any] = {"mean": mean, "covariance": covariance}
    for name in ("fit", "held"):
        which = rng.choice(k, N, p=WEIGHT)
        true = mean[which] + np.einsum("nij,nj->ni", root[which], rng.normal(size=(N, D)))
        err = 0.4 * WIDTH * 10 ** (0.3 * rng.normal(size=(N, D)))
        value = true + err * rng.normal(size=(N, D))
        value[rng.random((N, D)) < missing] = np.nan
        star = np.array([f"{name}{i}" for i in range(N)], object)
        out[name] = Abundances(star, NAMES, ("dex",) * D, value, err[:, :, None] ** 2 * np.eye(D), {})
        out[f"{name}_of"] = which
    return out


def joint(stars: Abundances, weight: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """ln w_k N(x; mu_k, Sigma_k + S), the plain way."""
    seen, out = np.isfinite(stars.value), np.zeros((len(stars.star), len(weight)))
    both = seen[:, :, None] & seen[:, None, :]
    for k in range(len(weight)):
        total = np.where(both, covariance[k] + stars.covariance, np.eye(stars.value.shape[1]))
        off = np.where(seen, stars.value - mean[k], 0.0)
        away = np.linalg.solve(total, off[..., None])[..., 0]
        out[:, k] = np.log(weight[k]) - 0.5 * (off * away).sum(1) - 0.5 * np.linalg.slogdet(total)[1]
    return out - 0.5 * seen.sum(1)[:, None] * np.log(2 * np.pi)


def deconvolve(stars: Abundances, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Extreme deconvolution: expectation maximisation of the same likelihood, K fixed."""
    value = np.where(np.isfinite(stars.value), stars.value, np.nanmedian(stars.value, axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.mixture import GaussianMixture

        begin = GaussianMixture(k, random_state=seed, n_init=3, reg_covar=1e-6).fit(value)
    return ascend(stars, begin.weights_, begin.means_, begin.covariances_)


def ascend(
    stars: Abundances, weight: np.ndarray, mean: np.ndarray, covariance: np.ndarray, steps: int = 300
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The steps of expectation maximisation from here to the nearest maximum of the likelihood, and ln of that."""
    weight, mean, covariance, last = weight.copy(), mean.copy(), covariance.copy(), -np.inf
    seen = np.isfinite(stars.value)
    both = seen[:, :, None] & seen[:, None, :]
    for _ in range(steps):
        each = joint(stars, weight, mean, covariance)
        fit = logsumexp(each, axis=1)
        if fit.sum() - last < 1e-3:
            break
        last, share = fit.sum(), np.exp(each - fit[:, None])
        for j in range(len(weight)):
            total = np.where(both, covariance[j] + stars.covariance, np.eye(stars.value.shape[1]))
            gain = np.where(seen[:, None, :], covariance[j][None], 0.0) @ np.linalg.inv(total)
            true = mean[j] + (gain @ np.where(seen, stars.value - mean[j], 0.0)[..., None])[..., 0]
            left = covariance[j] - gain @ np.where(seen[:, :, None], covariance[j][None], 0.0)
            n = share[:, j].sum()
            mean[j] = share[:, j] @ true / n
            off = true - mean[j]
            covariance[j] = (
                np.einsum("n,ni,nj->ij", share[:, j], off, off) + np.einsum("n,nij->ij", share[:, j], left)
            ) / n
            weight[j] = n / len(stars.value)
    return weight, mean, covariance, float(last)


def told(sky: dict[str, Any], partition: np.ndarray, density: float | None) -> dict[str, float]:
    out = {"ARI": float(adjusted_rand_score(sky["fit_of"], partition))}
    return out | ({"log density": density} if density is not None else {})


def hbcal_fit(sky: dict[str, Any], fast: bool, folder: Path) -> dict[str, Any]:
    elements = {name: {"value": name, "error": [f"{name}_err"]} for name in NAMES}
    recipe = parse_populations({"name": "truth", "title": "truth", "elements": elements, "stars": {"file": "none"}})
    begun = time.time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        run = populations(recipe, sky["fit"], folder, fast=fast)
    seconds = time.time() - begun
    together = run.coclustering().to_numpy()
    upper = np.triu_indices(N, 1)
    given, true = together[upper], (sky["fit_of"][:, None] == sky["fit_of"][None, :])[upper]
    cells = {f"of {p:.1f}": float(true[np.abs(given - p) < 0.05].mean()) for p in (0.2, 0.4, 0.6, 0.8)}
    n = run.posterior["n_occupied"].to_numpy().ravel()
    return told(sky, run.stars["population"].to_numpy(), float(run.log_predictive(sky["held"]).mean())) | {
        "K, 90%": [float(q) for q in np.quantile(n, (0.05, 0.95))], "together": cells, "seconds": seconds,
        "gate": run.diagnostics_text, "likeliest": float(
            adjusted_rand_score(sky["fit_of"], run.stars["probability"].to_numpy().argmax(1))),
        "log density at points": run.posterior["log_density"].mean(("chain", "draw")).values.tolist(),
        "sd at points": run.posterior["log_density"].std(("chain", "draw")).values.tolist(),
    }  # fmt: skip


def rivals(sky: dict[str, Any]) -> dict[str, Any]:
    fit, held, out = sky["fit"], sky["held"], {}
    filled, filled_held = (
        np.where(np.isfinite(s.value), s.value, np.nanmedian(fit.value, axis=0)) for s in (fit, held)
    )
    mixture = BayesianGaussianMixture(n_components=10, random_state=0, n_init=3, max_iter=1000).fit(filled)
    density = float(logsumexp(joint(held, mixture.weights_, mixture.means_, mixture.covariances_), axis=1).mean())
    plain = float(mixture.score(filled_held)) if np.isfinite(held.value).all() else density
    out["BayesianGaussianMixture"] = told(sky, mixture.predict(filled), max(plain, density))
    out["HDBSCAN"] = told(sky, HDBSCAN(min_cluster_size=30, copy=True).fit_predict(filled), None)
    found = [deconvolve(fit, k, 0) for k in range(1, 9)]
    cost = [(k * (1 + D + D * (D + 1) // 2) - 1) * np.log(N) - 2 * each[3] for k, each in enumerate(found, 1)]
    best = found[int(np.argmin(cost))][:3]
    density = float(logsumexp(joint(held, *best), axis=1).mean())
    out["extreme deconvolution"] = told(sky, joint(fit, *best).argmax(1), density) | {"K": int(np.argmin(cost)) + 1}
    best = ascend(fit, WEIGHT, sky["mean"], sky["covariance"])[:3]  # the price of the numbers alone, K known
    density = float(logsumexp(joint(held, *best), axis=1).mean())
    out["maximum likelihood from the truth"] = told(sky, joint(fit, *best).argmax(1), density)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--nuts", type=int, default=2)
    parser.add_argument("--missing", type=float, nargs="+", default=[0.0, 0.2])
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--out", type=Path, help="what it already holds is not computed again")
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    for missing in options.missing:
        for seed in range(options.seeds):
            sky = world(seed, missing)
            name = f"{missing:g} missing, seed {seed}"
            true = (WEIGHT, sky["mean"], sky["covariance"])
            density = float(logsumexp(joint(sky["held"], *true), axis=1).mean())
            one = {"oracle": told(sky, joint(sky["fit"], *true).argmax(1), density)} | result.get(name, {})
            with tempfile.TemporaryDirectory() as folder:
                if "fast" not in one:
                    one["fast"] = hbcal_fit(sky, True, Path(folder) / "fast")
                if seed < options.nuts and "NUTS" not in one:
                    one["NUTS"] = hbcal_fit(sky, False, Path(folder) / "nuts")
            if options.rivals and "HDBSCAN" not in one:
                one |= rivals(sky)
            result[name] = one
            shown = {k: {a: b for a, b in v.items() if "at points" not in a} for k, v in one.items()}
            print(name, json.dumps(shown, indent=1), flush=True)
            if options.out:
                options.out.write_text(json.dumps(result, indent=1))
    for missing in options.missing:
        here = [one for name, one in result.items() if name.startswith(f"{missing:g} missing")]
        for who in here[0]:
            ours = [one for one in here if who in one]
            share = np.mean([one[who]["ARI"] / one["oracle"]["ARI"] for one in ours])
            line = f"{missing:g} missing, {who}: ARI {share:.4f} of the oracle's ({len(ours)} seeds)"
            if "log density" in ours[0][who]:
                less = np.mean([one["oracle"]["log density"] - one[who]["log density"] for one in ours])
                line += f", log density {less:.4f} below"
            if "K, 90%" in ours[0][who]:
                held = sum(one[who]["K, 90%"][0] <= len(WEIGHT) <= one[who]["K, 90%"][1] for one in ours)
                pairs = {
                    k: round(float(np.mean([one[who]["together"][k] for one in ours])), 3)
                    for k in ours[0][who]["together"]
                }
                line += f", K holds 5 in {held} of {len(ours)}, together: {pairs}"
            print(line)


if __name__ == "__main__":
    main()
