"""Nearby dwarfs: does `hbcal report` say how far zero points move without a source, as refits do?

    python benchmarks/nearby_dwarfs_influence.py [--labels teff logg fe_h] [--drop valenti05 bensby14] [--draws 1000]

The labels named are fitted together; teff, logg and fe_h are always among them: the consensus covariates hang on them.
For a refit the source's rows are taken out of the file, which is read and fitted again. Compared are the zero points in
units of the whole fit's posterior sd, on a relative scale after removing the mean over the sources left. Needs the
catalogue in HBCAL_TEST_DATA.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from nearby_dwarfs_heldout import FILE
from planted_truth import only, variant

import hbcal
from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.observe import observe
from hbcal.design import prepare, voting
from hbcal.influence import moved
from hbcal.recipe import Recipe
from hbcal.tree import terms_of

CONSENSUS = ["teff", "logg", "fe_h"]


def fit(recipe: Recipe, table: pd.DataFrame, folder: Path, draws: int) -> tuple[hbcal.Run, Catalogue]:
    """Fit the sources with a say; the catalogue of all, whose consensus those without a say belong to."""
    folder.mkdir()
    table.to_csv(folder / FILE, index=False)
    catalogue = only(observe(recipe, folder), list(recipe.labels), 1.0)
    votes = catalogue.select(voting(recipe, catalogue))
    return hbcal.calibrate(recipe, votes, folder / "run", draws=draws), catalogue


def offsets(run: hbcal.Run, label: str, left: list[str]) -> np.ndarray:
    """Draws of the zero points of the sources left, (n_draw, n_source)."""
    chains = run.posterior["offset"].sel(survey=left, label=label).transpose("chain", "draw", "survey").to_numpy()
    draws = chains.reshape(-1, len(left))
    return draws if "anchored" in run.scale[label] else draws - draws.mean(axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", nargs="+", default=CONSENSUS)
    parser.add_argument("--drop", nargs="+", default=["valenti05", "bensby14"])
    parser.add_argument("--draws", type=int, default=1000)  # with 500, chance alone takes one R-hat in 264 over 1.01
    options = parser.parse_args()
    table = pd.read_csv(Path(os.environ["HBCAL_TEST_DATA"]) / "catalogues" / FILE, dtype=str, keep_default_na=False)
    recipe = variant([*CONSENSUS, *options.labels], "crosscal_robust", declared=True)
    warnings.simplefilter("ignore", ConvergenceWarning)  # printed below
    apart, error, failed = [], [], 0
    with tempfile.TemporaryDirectory() as scratch:
        full, catalogue = fit(recipe, table, Path(scratch) / "all", options.draws)
        print(f"all: {full.diagnostics_text}", flush=True)
        failed += not full.passed
        begun = time.time()
        # as the report of a run of all sources: the consensus is that of all others, whether they vote or not
        found = moved(prepare(recipe, catalogue), terms_of(full.posterior), print, options.drop)
        influence = found.sel(term="offset")
        print(f"the report took {time.time() - begun:.0f} s", flush=True)
        for source in options.drop:
            rest, _ = fit(recipe, table[table["source"] != source], Path(scratch) / source, options.draws)
            print(f"without {source}: {rest.diagnostics_text}", flush=True)
            failed += not rest.passed
            for label in influence["label"].values:
                told = influence["moved"].sel(dropped=source, label=label).dropna("survey")
                left = [str(s) for s in told["survey"].values]
                if not left:
                    print(f"  {influence['reason'].sel(dropped=source, label=label).item()}")
                    continue
                before, after = offsets(full, label, left), offsets(rest, label, left)
                refitted = (after.mean(0) - before.mean(0)) / before.std(0)
                apart += np.abs(told.to_numpy() - refitted).tolist()
                error.append(influence["error"].sel(dropped=source, label=label, survey=left).to_numpy().max())
                each = [f"{s} {x:+.2f} ({y:+.2f})" for s, x, y in zip(left, refitted, told.to_numpy(), strict=True)]
                print(f"  {label}, refit (report), sd: {', '.join(each)}", flush=True)
    print(f"{len(apart)} zero points, report and refit at most {max(apart):.2f} posterior sd apart;", end=" ")
    print(f"Monte Carlo error of the report up to {max(error):.2f}; {failed} fits failed their gate")


if __name__ == "__main__":
    main()
