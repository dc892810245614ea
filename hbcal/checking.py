"""Does a finished run describe its own data? Diagnostics, and residuals of every measurement against the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from hbcal.check.coverage import Coverage, coverage
from hbcal.draws import label_draws
from hbcal.predict import FEW_DRAWS, predictive, told_by
from hbcal.run import Run
from hbcal.solve import beside

LEAST = 50


@dataclass(frozen=True)
class Checked:
    """Verdict on a run.

    Attributes:
        coverages: "survey label" (and "survey label category=level") -> `Coverage` of the standardised residuals.
        failures: one sentence per thing that is wrong.
    """

    coverages: dict[str, Coverage]
    failures: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        covered = {k: v.as_dict() for k, v in self.coverages.items()}
        return {"passed": not self.failures, "failures": self.failures, "residuals": covered}


def check_run(run: Run) -> Checked:
    """Check the diagnostics, then each survey's measurements against what the other sources predict for them.

    z is the normal score of the predictive probability of less than what was measured, given the star's other
    measurements: (y - mean) / sd where that is Gaussian. Per survey and label with 50 or more, and per category level,
    the scatter of z must be 1 within 0.15 and its median 0 within 0.15, beyond chance.

    Args:
        run: a finished run.

    Returns:
        `Checked`.

    Errors:
        None.

    Example:
        >>> list(check_run(tiny_run()).coverages)  # s0 and s2 have fewer than 50 measurements
        ['s1 fe_h']
    """
    failures = list(run.diagnostics["failures"])
    failures += [f"{what}: declare it with depends_on" for what in json.loads(run.tree.attrs.get("copies", "[]"))]
    coverages: dict[str, Coverage] = {}
    cat = run.catalogue
    for l, label in enumerate(cat.labels):
        drawn = {s: d.thinned(FEW_DRAWS) for s, d in label_draws(run.recipe, run.posterior, label).items()}
        more = [d.thinned(FEW_DRAWS) for d in beside(run.recipe, run.posterior, label)]
        for survey, d in drawn.items():
            s = cat.surveys.index(survey)
            rows = np.flatnonzero((cat.survey == s) & (cat.label == l))
            others = {k: v for k, v in told_by(run.recipe, drawn, survey, label).items() if k != survey}
            if not others or len(rows) < LEAST:
                continue
            rows = np.random.default_rng(0).permutation(rows)[:20000]
            star = cat.star[rows]
            found = predictive(cat, others, d, star, cat.error[rows], more)
            below = np.clip(found.whole.cdf(cat.value[rows]), 1e-12, 1.0 - 1e-12)
            z = np.where(found.count > 0, ndtri(below), np.nan)
            groups = {f"{survey} {label}": np.ones(len(rows), bool)}
            for c, (name, spec) in enumerate(run.recipe.covariates.items()):
                if cat.star_level[c]:
                    for k, level in enumerate(spec.all_levels):
                        groups[f"{survey} {label} {name}={level}"] = cat.x[star, s, c] == k
            for name, at in groups.items():
                if np.isfinite(z[at]).sum() >= LEAST:
                    coverages[name] = coverage(z[at])
                    failures += [f"{name}: {what}" for what in coverages[name].failures()]
    return Checked(coverages, failures)
