"""Our Turbospectrum against spectra that somebody else made with it, for the same 81 stars in two windows.

    python benchmarks/synthesis_shared.py MARCS_FOLDER LINE_LIST OUT_FOLDER

Theirs: plane-parallel LTE, MARCS models interpolated by another package, 13 labels, 12C/13C = 15, in HBCAL_TEST_DATA.
Ours is resumed where OUT_FOLDER holds an interrupted run.
"""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np

from hbcal.synthesis.broaden import broaden
from hbcal.synthesis.grid import synthesize_grid

NAMES = {"feh": "fe_h", "alpha": "alpha_m", "teff": "teff", "logg": "logg", "vmicro": "vmicro"}
WINDOWS = {"rvs": (8460.0, 8700.0, 11_500.0), "galahred": (6480.0, 6735.0, 28_000.0)}
GRID = """name = "{name}"
table = "stars.csv"

[window]
low = {low}
high = {high}
step = 0.1
margin = 0.0

[lines]
files = [{line_list}, "DATA/Hlinedata"]
isotopes = {{ "6.012" = 0.9375, "6.013" = 0.0625 }}

[atmospheres]
folder = {folder}
geometry = "plane_parallel"
"""


def main(folder, line_list, out):
    data = np.load(
        Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "spectra/synthetic_turbospectrum_rvs_galah.npz"
    )
    out = Path(out)
    out.mkdir(exist_ok=True)
    with (out / "stars.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["star", *(NAMES.get(name, f"{name.lower()}_fe") for name in data["label_names"])])
        table.writerows([f"s{i:02d}", *map(float, row)] for i, row in enumerate(data["labels"]))
    for name, (low, high, resolution) in WINDOWS.items():
        paths = {
            "line_list": json.dumps(str(Path(line_list).resolve())),
            "folder": json.dumps(str(Path(folder).resolve())),
        }
        (out / f"{name}.toml").write_text(GRID.format(name=name, low=low, high=high, **paths))
        ours = synthesize_grid(out / f"{name}.toml", out / f"{name}.npz", resume=True, progress=print).spectra
        theirs = data[f"{name}_flux_u16"] / data["scale"]
        for r in (0.0, resolution):
            a, b = (broaden(ours.wave, flux, r) for flux in (ours.flux, theirs))
            corr = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
            rms = (a - b).std(axis=1)
            print(
                f"{name}, {f'R = {r:.0f}' if r else 'not broadened'}: r median {np.median(corr):.5f}, smallest "
                f"{min(corr):.5f}; rms median {np.median(rms):.5f}, largest {rms.max():.5f}; largest difference "
                f"{np.abs(a - b).max():.4f}"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
