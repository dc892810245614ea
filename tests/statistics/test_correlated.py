"""`crosscal_correlated`: simulation-based calibration, and given correlations taken for none, which it must catch."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from hbcal.catalogue.catalogue import Catalogue
from hbcal.check.sbc import ranks, uniformity, verdict
from hbcal.check.simulate_many import posteriors, prior_and_data
from hbcal.correlated import correlated
from hbcal.design import prepare
from hbcal.programs.crosscal_correlated import CorrelatedDesign, crosscal_correlated, draw_coefficients
from hbcal.recipe import parse_recipe

# everything the program can do: correlations that are given, fitted and neither; a label that is missing here and
# there, missing errors, visits, an anchor of one label, a trend, a learnt prior scale, a floor with a covariate
RECIPE = {
    "name": "sbc",
    "title": "everything at once, small",
    "program": "crosscal_correlated",
    "labels": {
        "teff": {"unit": "K", "offset_scale": 80.0, "floor_scale": 10.0},
        "fe_h": {"unit": "dex", "offset_sd": 0.2, "floor_scale": 0.02},
    },
    "surveys": {"anchor": {"anchor": ["fe_h"]}, "a": {}, "b": {"correlated": ["teff", "fe_h"]}},
    "covariates": {"colour": {}},
    "data": [{"file": "m.csv", "layout": "long"}],
    "trend": [{"labels": ["fe_h"], "covariates": ["colour"], "sd": 0.1}],
    "floor": [{"labels": ["fe_h"], "surveys": ["a"], "covariates": ["colour"]}],
}
N, DRAWS, THIN, GIVEN = 168, 200, 2, 0.85


@pytest.fixture(autouse=True)
def _numpyro_promotes_ranks():
    """NUTS itself adds vectors to matrices; hbcal's own code is held to the stricter rule elsewhere."""
    with jax.numpy_rank_promotion("allow"):
        yield


def small_design() -> CorrelatedDesign:
    """Every star seen by most surveys, some twice; a third of b's errors missing; a's errors go together."""
    rng, n = np.random.default_rng(5), 50
    rows = [(i, s, l, 0) for i in range(n) for s in range(3) for l in range(2) if rng.random() < (0.9 if s else 0.7)]
    rows += [(i, 1, l, 1) for i in range(0, n, 5) for l in range(2)]
    star, survey, label, visit = np.array(sorted(rows)).T
    error = np.where(label == 0, rng.uniform(20, 60, len(star)), rng.uniform(0.03, 0.1, len(star)))
    error[(survey == 2) & (rng.random(len(star)) < 0.33)] = np.nan
    told = np.full((len(star), 2), np.nan)
    told[survey == 1] = GIVEN
    catalogue = Catalogue(
        np.array([f"s{i}" for i in range(n)], dtype=object), ("anchor", "a", "b"), ("teff", "fe_h"), ("colour",), star,
        survey, label, np.zeros(len(star)), error, np.repeat(rng.uniform(-1, 1, (n, 1, 1)), 3, axis=1),
        np.array([True]), visit=visit, correlation=told,
    )  # fmt: skip
    return correlated(prepare(parse_recipe(RECIPE), catalogue)).design


def p_values(fitted: CorrelatedDesign, simulated: CorrelatedDesign) -> dict[str, float]:
    """Simulate from one design, fit with another: p-value of uniform ranks per quantity."""
    truth, data = prior_and_data(crosscal_correlated, (simulated,), N, 31)
    drawn = posteriors(
        crosscal_correlated, (fitted,), data, warmup=200, draws=DRAWS, thin=THIN, seed_number=32,
        complete=draw_coefficients,
    )  # fmt: skip
    out = {}
    for name, values in quantities(truth).items():
        draws = quantities(drawn)[name]
        for j in range(values.shape[-1]):
            out[f"{name}[{j}]"] = uniformity(ranks(values[:, j], draws[:, :, j]), DRAWS // THIN)
    return out


def quantities(sites: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sites as vectors; of the Cholesky factor the correlation; and how zero points of two labels go together."""
    out = {k: v for k, v in sites.items() if not k.startswith("corr_")}
    out["correlation"] = sites["corr_b"][..., 1, :1]
    teff, fe_h = sites["coef_teff"] / 80.0, sites["coef_fe_h"] / 0.2
    out["sum of a's"], out["difference of a's"] = (teff[..., :1] + k * fe_h[..., :1] for k in (1, -1))
    return out


@pytest.mark.slow
def test_ranks_are_uniform():
    design = small_design()
    found = p_values(design, design)
    assert len(found) > 15
    assert verdict(found) == {}


@pytest.mark.slow
def test_given_correlations_taken_for_their_opposite_are_caught():
    design = small_design()
    wrong = tuple(replace(g, corr=np.where(np.eye(2) > 0, g.corr, -g.corr)) for g in design.groups)
    found = p_values(replace(design, groups=wrong), design)
    assert verdict(found) != {}, found
