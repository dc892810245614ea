"""Populations of real stars beside the authors' classes, which none of the methods looks at.

    python benchmarks/populations_real.py [--recipes halo_populations ...] [--nuts] [--out FILE.json]

Printed per recipe are the adjusted Rand index against the authors' classes of hbcal's representative partition (with
its 90% interval over the draws), of scikit-learn's BayesianGaussianMixture, HDBSCAN and extreme deconvolution with K by
BIC; how sure hbcal is of the stars whose population is not the one that most of their class are in, against the
others; and for GS/E which share of the authors' confident members is in one population. Needs HBCAL_TEST_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from populations_truth import deconvolve, joint
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture

from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.abundances import read_abundances
from hbcal.population_recipe import load_populations
from hbcal.populations import populations

CLASSES = {"halo_populations": "population", "h3_populations": "population", "disc_populations": "popB"}
CONFIDENT = 0.9


def by_bic(stars: Any, most: int = 8) -> np.ndarray:
    found, (n, d) = [deconvolve(stars, k, 0) for k in range(1, most + 1)], stars.value.shape
    cost = [(k * (1 + d + d * (d + 1) // 2) - 1) * np.log(n) - 2 * each[3] for k, each in enumerate(found, 1)]
    return joint(stars, *found[int(np.argmin(cost))][:3]).argmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(CLASSES), choices=list(CLASSES))
    parser.add_argument("--nuts", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = Path(os.environ["HBCAL_TEST_DATA"]) / "catalogues"
    result: dict[str, Any] = {}
    for name in options.recipes:
        recipe = load_populations(name)
        stars = read_abundances(recipe, data)
        table = pd.read_csv(data / recipe.stars.file)
        ids = table[recipe.stars.star].astype(str) if recipe.stars.star else [f"row{i + 1}" for i in range(len(table))]
        table = table.set_index(pd.Index(ids)).loc[stars.star.astype(str)]
        classes = table[CLASSES[name]].astype(str).to_numpy()
        begun = time.time()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            run = populations(recipe, stars, Path(folder) / "run", fast=not options.nuts)
            report = run.text()
        population = run.stars["population"].to_numpy()
        sure = run.stars["probability"].to_numpy().max(1)
        draws = run.tree["components"]["component_of"].to_numpy()[::4]
        indices = np.quantile([adjusted_rand_score(classes, each) for each in draws], (0.05, 0.95))
        usual = pd.Series(population).groupby(classes).agg(lambda each: each.mode()[0])
        agrees = population == usual[classes].to_numpy()
        filled = np.where(np.isfinite(stars.value), stars.value, np.nanmedian(stars.value, axis=0))
        mixture = BayesianGaussianMixture(n_components=10, random_state=0, n_init=3, max_iter=1000)
        one: dict[str, Any] = {
            "hbcal": float(adjusted_rand_score(classes, population)), "hbcal, 90% of draws": indices.tolist(),
            "BayesianGaussianMixture": float(adjusted_rand_score(classes, mixture.fit_predict(filled))),
            "HDBSCAN": float(
                adjusted_rand_score(classes, HDBSCAN(min_cluster_size=30, copy=True).fit_predict(filled))),
            "extreme deconvolution": float(adjusted_rand_score(classes, by_bic(stars))),
            "K": run.n_occupied, "gate": run.diagnostics_text, "seconds": time.time() - begun,
            "mean probability, agrees": float(sure[agrees].mean()),
            "mean probability, does not": float(sure[~agrees].mean()), "share that agrees": float(agrees.mean()),
            "agrees, by tenths of probability": {
                f"{low:.1f}": [int(here.sum()), float(agrees[here].mean())]
                for low in np.arange(0.2, 1.0, 0.1)
                if (here := (sure >= low) & (sure < low + 0.1 + 1e-9)).any()
            },
        }  # fmt: skip
        if name == "halo_populations":
            columns = [c for c in table if c.startswith("prob_gauss_")]
            density = table[columns].to_numpy()
            confident = density.max(axis=1) > CONFIDENT * density.sum(axis=1)
            for what in ("GS/E", "Splash", "Eos", "Aurora"):
                of = np.char.startswith(classes.astype(str), what)
                here = of & confident
                for kind, rows in (("all", of), ("confident", here)):
                    if rows.any():
                        one[f"{what}, {kind}: most in one population"] = [
                            int(rows.sum()),
                            float(np.bincount(population[rows]).max() / rows.sum()),
                        ]
        result[name] = one
        print(name, json.dumps(one, indent=1), pd.crosstab(classes, population), report, sep="\n", flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
