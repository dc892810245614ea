"""The packaged recipes' posteriors against the ones kept beside them, within Monte Carlo error.

    python benchmarks/reference.py [NAME ...]              fit again and compare with models/NAME/reference.json
    python benchmarks/reference.py NAME --write [--run RUN]  keep the posterior of a new fit, or of RUN

Of each quantity the mean must agree within 5 standard errors of both, the sd within 5 of its own (sd / sqrt(2 ESS)).
The real recipes need the catalogues in HBCAL_TEST_DATA, the others are fitted to data simulated with seed 1; exits with
1 when something moved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np
from astropy.table import Table

import hbcal

REAL = ["kepler_giants", "seismic_pipelines", "clusters", "globular_clusters", "dwarf_parameters"]
SIMULATED = ["textbook", "demo", "pipeline_response"]


def reference_of(run: hbcal.Run) -> dict:
    """Mean, sd and bulk effective sample size of every quantity, and what they stem from."""
    quantities = {}
    for row in Table.read(run.path / "summary.ecsv"):
        where = ", ".join(str(row[c]) for c in ("survey", "label", "term") if row[c] is not np.ma.masked and row[c])
        quantities[f"{row['quantity']}[{where}]"] = [float(f"{row[c]:.6g}") for c in ("mean", "sd", "ess_bulk")]
    provenance = json.loads((run.path / "provenance.json").read_text(encoding="utf-8"))
    return {
        "hbcal": provenance["hbcal"],
        "versions": provenance["versions"],
        "settings": {k: provenance["settings"][k] for k in ("chains", "warmup", "draws", "seed")},
        "sources": {source["file"]: source["sha256"] for source in provenance["sources"]},
        "left_out": provenance["left_out"],
        "diagnostics": run.diagnostics_text,
        "columns": ["mean", "sd", "ess_bulk"],
        "quantities": quantities,
    }


def moved(new: dict, old: dict) -> list[str]:
    """One line per quantity that is not what it was."""
    lines = [f"{name}: only in one of the two" for name in new.keys() ^ old.keys()]
    for name in new.keys() & old.keys():
        (mean, sd, ess), (mean_0, sd_0, ess_0) = new[name], old[name]
        if sd == sd_0 == 0.0 and mean == mean_0:  # what the recipe fixes, such as an anchor's zero point
            continue
        z = (mean - mean_0) / np.hypot(sd / ess**0.5, sd_0 / ess_0**0.5)
        z_sd = (sd - sd_0) / np.hypot(sd / (2 * ess) ** 0.5, sd_0 / (2 * ess_0) ** 0.5)
        if not (abs(z) < 5 and abs(z_sd) < 5):
            lines.append(f"{name}: {mean:.5g} +- {sd:.2g}, was {mean_0:.5g} +- {sd_0:.2g}")
    return sorted(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=REAL + SIMULATED)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    if options.run and len(options.names) != 1:
        parser.error("--run is a run of one recipe: name that recipe, and no other")
    failed = False
    for name in options.names:
        with tempfile.TemporaryDirectory() as scratch:
            if options.run:
                run = hbcal.open_run(options.run)
            else:
                data = (
                    Path(scratch) / "data" if name in SIMULATED else Path(os.environ["HBCAL_TEST_DATA"]) / "catalogues"
                )
                if name in SIMULATED:
                    hbcal.simulate(name, data, seed=1)
                run = hbcal.calibrate(name, data, Path(scratch) / "run")
            found = reference_of(run)
        path = Path(str(files("hbcal") / "models" / name / "reference.json"))
        if options.write:
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            continue
        lines = moved(found["quantities"], json.loads(path.read_text(encoding="utf-8"))["quantities"])
        print(f"{name}: {len(lines)} of {len(found['quantities'])} quantities moved; {run.diagnostics_text}")
        print("\n".join(lines))
        failed = failed or bool(lines)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
