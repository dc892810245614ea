"""From a catalogue to arrays and back: names, gauge, what is left out."""

from dataclasses import replace

import numpy as np
import pytest

from hbcal import HbcalError, load_recipe, simulate
from hbcal.design import anchors_of, named_quantities, prepare


def test_every_measurement_of_a_shared_star_is_in_the_design_once(tiny_prepared):
    cat = tiny_prepared.catalogue
    shared = np.flatnonzero(np.bincount(cat.star)[cat.star] > 1)
    rows = tiny_prepared.rows[0]
    assert sorted(rows[rows >= 0]) == list(shared)
    np.testing.assert_array_equal(tiny_prepared.y[0][rows >= 0], cat.value[rows[rows >= 0]])
    seen = np.concatenate([b.seen.ravel() for b in tiny_prepared.design.labels[0].blocks])
    np.testing.assert_array_equal(seen, rows >= 0)


def test_a_missing_covariate_leaves_the_row_out_and_counts_it(tiny_sky, tiny_prepared):
    x = tiny_sky.catalogue.x.copy()
    star = tiny_sky.catalogue.star[tiny_sky.catalogue.survey == 1][:3]
    x[star, 1, 0] = np.nan
    prepared = prepare(tiny_prepared.recipe, replace(tiny_sky.catalogue, x=x))
    assert prepared.catalogue.left_out == {"x1 of s1 missing": 3}
    assert np.isfinite(prepared.design.labels[0].blocks[0].phi).all()


def test_a_useless_covariate_is_one_sentence(tiny_sky, tiny_prepared):
    for fill, said in ((np.nan, "is missing for all"), (0.3, "cannot be told from the zero point")):
        x = tiny_sky.catalogue.x.copy()
        x[:, :, 1] = fill
        with pytest.raises(HbcalError, match=said):
            prepare(tiny_prepared.recipe, replace(tiny_sky.catalogue, x=x))


def test_draws_come_back_under_their_names(tiny_prepared):
    n = tiny_prepared.expand[0].shape[2]
    coef = np.random.default_rng(0).normal(size=(1, 4, n))
    sites = {"coef_fe_h": coef, "error_scale": np.full((1, 4, 2), 1.2), "floor": np.full((1, 4, 2), 0.1)}
    named = named_quantities(tiny_prepared, sites)
    full = np.einsum("stk,cdk->cdst", tiny_prepared.expand[0], coef)
    np.testing.assert_array_equal(named["offset"][..., 1:, 0], full[..., 1:, 0])
    np.testing.assert_array_equal(named["trend"][..., 1:, 0, :], full[..., 1:, 1:])
    np.testing.assert_array_equal(named["error_scale"][0, 0, :, 0], [1.0, 1.2, 1.2])
    np.testing.assert_array_equal(named["floor"][0, 0, :, 0], [0.0, 0.1, 0.1])


def test_without_an_anchor_the_coefficients_cannot_move_together():
    recipe = load_recipe("seismic_pipelines")
    assert all(not who for who in anchors_of(recipe).values())
    prepared = prepare(recipe, simulate(recipe, seed=1, n_star=60).catalogue)
    for expand in prepared.expand:
        np.testing.assert_allclose(expand[:, 0].sum(0), 0.0, atol=1e-12)
