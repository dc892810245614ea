"""Simulation-based calibration of `crosscal` and `crosscal_robust`, and planted defects that it must catch.

The design has everything the program can do: a polynomial trend per category, missing errors, a floor with a covariate
and a category, repeated visits, an anchor for one label and the zero-sum gauge for the other, learnt prior scales.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import jax
import numpy as np
import pytest

from hbcal.catalogue.catalogue import Catalogue
from hbcal.check.sbc import ranks, uniformity, verdict
from hbcal.check.simulate_many import posteriors, prior_and_data
from hbcal.design import Prepared, prepare
from hbcal.programs.crosscal import Priors, crosscal, draw_coefficients
from hbcal.programs.crosscal_robust import RobustPriors, crosscal_robust
from hbcal.recipe import parse_recipe
from hbcal.strata import robust

RECIPE = {
    "name": "sbc",
    "title": "everything at once, small",
    "labels": {
        "teff": {"unit": "K", "offset_scale": 80.0, "floor_scale": 40.0},
        "fe_h": {"unit": "dex", "offset_sd": 0.2, "floor_scale": 0.08},
    },
    "surveys": {"anchor": {"anchor": ["fe_h"]}, "a": {}, "b": {}},
    "covariates": {"colour": {}, "kind": {"levels": ["dwarf", "giant"]}},
    "data": [{"file": "m.csv", "layout": "long"}],
    "trend": [
        {"labels": ["fe_h"], "covariates": ["colour"], "degree": 2, "per": "kind", "sd": 0.1},
        {"labels": ["teff"], "covariates": ["colour"], "scale": 40.0},
    ],
    "floor": [{"labels": ["fe_h"], "surveys": ["a"], "covariates": ["colour"], "per": "kind"}],
}
DRAWS, THIN = 200, 2


@pytest.fixture(autouse=True)
def _numpyro_promotes_ranks():
    """NUTS itself adds vectors to matrices; hbcal's own code is held to the stricter rule elsewhere."""
    with jax.numpy_rank_promotion("allow"):
        yield


def small_design(n_star: int = 50) -> Prepared:
    """Every star seen by most surveys, some twice; a third of b's errors missing."""
    rng = np.random.default_rng(5)
    recipe = parse_recipe(RECIPE)
    rows = [(i, s, l) for i in range(n_star) for s in range(3) for l in range(2) if rng.random() < (0.9 if s else 0.6)]
    rows += [(i, 1, l) for i in range(0, n_star, 5) for l in range(2)]  # visits
    star, survey, label = np.array(sorted(rows)).T
    error = np.where(label == 0, rng.uniform(20, 60, len(star)), rng.uniform(0.03, 0.1, len(star)))
    error[(survey == 2) & (rng.random(len(star)) < 0.33)] = np.nan
    x = np.stack([rng.uniform(-1, 1, n_star), rng.integers(0, 2, n_star).astype(float)], axis=1)
    catalogue = Catalogue(
        np.array([f"s{i}" for i in range(n_star)], dtype=object), ("anchor", "a", "b"), ("teff", "fe_h"),
        ("colour", "kind"), star, survey, label, np.zeros(len(star)), error, np.repeat(x[:, None], 3, axis=1),
        np.array([True, True]),
    )  # fmt: skip
    return prepare(recipe, catalogue)


def p_values(n: int, fitted: Prepared, simulated: Prepared, priors: Priors) -> dict[str, float]:
    """Simulate from one design and the standard priors, fit with another: p-value of uniform ranks per quantity."""
    truth, data = prior_and_data(crosscal, (simulated.design,), n, 11, priors=Priors())
    drawn = posteriors(
        crosscal, (fitted.design,), data, warmup=200, draws=DRAWS, thin=THIN, seed_number=12,
        complete=draw_coefficients, priors=priors,
    )  # fmt: skip
    return uniformities(truth, drawn)


def uniformities(truth: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> dict[str, float]:
    n, out = len(next(iter(truth.values()))), {}
    for site, true in truth.items():
        flat_truth = true.reshape(n, -1)
        flat_draws = drawn[site].reshape(n, DRAWS // THIN, -1)
        for j in range(flat_truth.shape[1]):
            out[f"{site}[{j}]"] = uniformity(ranks(flat_truth[:, j], flat_draws[:, :, j]), DRAWS // THIN)
    return out


@pytest.mark.slow
def test_ranks_are_uniform():
    design = small_design()
    found = p_values(224, design, design, Priors())
    assert len(found) > 25
    assert verdict(found) == {}


@pytest.mark.slow
def test_a_wrong_prior_is_caught():
    """Error scales fitted with a third of their prior width."""
    design = small_design()
    found = verdict(p_values(224, design, design, Priors(error_scale=0.1)))
    assert any(name.startswith("error_scale") for name in found)


@pytest.mark.slow
def test_underestimated_errors_are_caught():
    """All quoted errors too small by 20%: the error scales come out too large."""
    design = small_design()
    labels = tuple(
        replace(label, blocks=tuple(replace(b, err2=0.64 * b.err2) for b in label.blocks))
        for label in design.design.labels
    )
    wrong = replace(design, design=replace(design.design, labels=labels))
    found = verdict(p_values(224, wrong, design, Priors()))
    assert any(name.startswith("error_scale") for name in found)


OFTEN = RobustPriors(outlier_rate=0.1)  # fifty stars have few outliers at 3%


def robust_p_values(priors: RobustPriors) -> dict[str, float]:
    """Simulate `crosscal_robust` with outliers at 10%, fit it with these priors.

    The prior sds are stated: two offsets cannot tell a learnt one's scale, and where they are sampled rather than
    integrated out that is a funnel, which would test the sampler and not the program.
    """
    table = copy.deepcopy(RECIPE) | {"program": "crosscal_robust"}
    table["labels"]["teff"] = {"unit": "K", "offset_sd": 80.0, "floor_scale": 40.0}
    table["trend"][1] = {"labels": ["teff"], "covariates": ["colour"], "sd": 40.0}
    design = robust(prepare(parse_recipe(table), small_design().catalogue)).design
    truth, data = prior_and_data(crosscal_robust, (design,), 168, 21, priors=OFTEN)
    drawn = posteriors(
        crosscal_robust, (design,), data, warmup=300, draws=DRAWS, thin=THIN, seed_number=22, priors=priors
    )
    return uniformities(truth, drawn)


@pytest.mark.slow
def test_ranks_of_the_robust_program_are_uniform():
    found = robust_p_values(OFTEN)
    assert len(found) > 25
    assert verdict(found) == {}


@pytest.mark.slow
def test_a_fit_that_hardly_believes_in_outliers_is_caught():
    found = verdict(robust_p_values(RobustPriors(outlier_rate=0.002)))
    assert any(name.startswith("outlier_rate") for name in found)
    assert any(name.startswith(("floor", "error_scale")) for name in found)
