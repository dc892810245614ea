"""Recipe `seismic_pipelines`: how far the relative offsets move when one pipeline is left out altogether.

    python benchmarks/seismic_drop_one.py [--full RUN] [--drop A2Z CAN COR OCT SYD]

The pipeline is taken out of the recipe, so the consensus Delta nu is that of the other four. Offsets are compared after
removing their mean over the pipelines left, in units of the full fit's posterior sd. Beside each refit stands what
`hbcal report` says without one. Needs the catalogue in HBCAL_TEST_DATA.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np

import hbcal
from hbcal.recipe import Recipe, parse_recipe

NAME = "seismic_pipelines"


def without(pipeline: str) -> Recipe:
    """The packaged recipe, less one survey."""
    table = tomllib.loads((files("hbcal") / "models" / NAME / "recipe.toml").read_text(encoding="utf-8"))
    del table["surveys"][pipeline]
    for source in table["data"]:
        source["measurements"] = [m for m in source["measurements"] if m["survey"] != pipeline]
    for floor in table["floor"]:
        floor["surveys"] = [s for s in floor["surveys"] if s != pipeline]
    table["simulate"]["seen"].pop(pipeline)
    return parse_recipe(table)


def relative(run: hbcal.Run, pipelines: list[str]) -> np.ndarray:
    """Draws of the offsets less their mean over these pipelines, (n_draw, n_pipeline, n_label)."""
    offset = run.posterior["offset"].sel(survey=pipelines).stack(sample=("chain", "draw"))
    offset = offset.transpose("sample", "survey", "label").to_numpy()
    return offset - offset.mean(axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", type=Path, help="a run of the whole recipe, to save fitting it again")
    parser.add_argument("--drop", nargs="+", default=["A2Z", "CAN", "COR", "OCT", "SYD"])
    options = parser.parse_args()
    data = Path(os.environ["HBCAL_TEST_DATA"]) / "catalogues"
    with tempfile.TemporaryDirectory() as scratch:
        full = hbcal.open_run(options.full) if options.full else hbcal.calibrate(NAME, data, Path(scratch) / "full")
        pipelines = [str(s) for s in full.posterior["survey"].to_numpy()]
        print(f"all: {full.diagnostics_text}", flush=True)
        reported = full.identifiability(print, options.drop).influence["moved"].sel(term="offset")
        worst, apart = 0.0, 0.0
        for pipeline in options.drop:
            rest = [s for s in pipelines if s != pipeline]
            run = hbcal.calibrate(without(pipeline), data, Path(scratch) / pipeline)
            before, after = relative(full, rest), relative(run, rest)
            moved = (after.mean(0) - before.mean(0)) / before.std(0)
            worst = max(worst, float(np.abs(moved).max()))
            print(f"without {pipeline}: {run.diagnostics_text}")
            for label, row in zip(run.posterior["label"].to_numpy(), moved.T, strict=True):
                told = reported.sel(dropped=pipeline, label=label, survey=rest).to_numpy()
                apart = max(apart, float(np.abs(told - row).max()))
                each = [f"{s} {x:+.2f} ({y:+.2f})" for s, x, y in zip(rest, row, told, strict=True)]
                print(f"  {label}, refit (report), sd: {', '.join(each)}", flush=True)
        print(f"largest move: {worst:.2f} posterior sd; report and refit at most {apart:.2f} apart")


if __name__ == "__main__":
    main()
