"""The start is near the truth, and the clipping finds what was planted."""

from dataclasses import replace

import numpy as np
import pytest

from hbcal import simulate
from hbcal.design import prepare
from hbcal.problem import task_of
from hbcal.start import find_start, least_squares_start, ring_of


def test_the_start_is_near_the_truth(tiny_prepared):
    values = {"floor": {"s1.fe_h": 0.15, "s2.fe_h": 0.3}, "error_scale": {"s1.fe_h": 1.0, "s2.fe_h": 1.0}}
    sky = simulate(tiny_prepared.recipe, seed=1, n_star=800, values=values)
    prepared = prepare(tiny_prepared.recipe, sky.catalogue)
    np.testing.assert_allclose(least_squares_start(prepared)["floor"], [0.15, 0.3], rtol=0.2)
    start = find_start(prepared)
    np.testing.assert_allclose(start.sites["floor"], [0.15, 0.3], rtol=0.15)
    assert np.linalg.eigvalsh(start.inverse_mass).min() > 0
    assert len(start.clipped) == 0


@pytest.mark.parametrize(
    ("n_star", "n_planted", "size"),
    [(400, 2, 2.0), (120, 6, 40.0)],  # the six huge ones inflate the scatter of a mode fitted with them
)
def test_clipping_finds_planted_outliers(tiny_prepared, n_star, n_planted, size):
    cat = simulate(tiny_prepared.recipe, seed=1, n_star=n_star).catalogue
    planted = np.flatnonzero((np.bincount(cat.star)[cat.star] == 3) & (cat.survey == 2))[:n_planted]
    value = cat.value.copy()
    value[planted] += size
    prepared = prepare(tiny_prepared.recipe, replace(cat, value=value))
    assert set(planted) <= set(find_start(prepared, clip=5.0).clipped)


def test_priors_are_those_of_the_recipe(tiny_prepared):
    recipe = tiny_prepared.recipe
    changed = replace(recipe, priors=replace(recipe.priors, error_scale=0.1))
    assert task_of(replace(tiny_prepared, recipe=changed)).kwargs["priors"].error_scale == 0.1


@pytest.mark.parametrize(("kept_of_third", "n_arc"), [(0.5, 1), (1.0, 0)])
def test_floors_of_which_the_data_know_a_sum_are_sampled_as_one(tiny_prepared, kept_of_third, n_arc):
    """Without errors, and mostly without a third survey; where the third sees as many, the floors are on their own."""
    cat = tiny_prepared.catalogue
    seen = cat.survey == cat.surveys.index("s0")
    keep = ~seen | (np.cumsum(seen) <= kept_of_third * seen.sum())
    cat = replace(cat, error=np.where(seen, cat.error, np.nan)).select(keep)
    prepared = prepare(tiny_prepared.recipe, cat)
    chain = ring_of(prepared)
    links = chain.links if chain else ()
    assert not prepared.error_scales
    assert len(links) == n_arc
    for arc in links:
        assert {prepared.floors[int(i)] for i in (*arc.first_at, *arc.second_at)} == {("s1", "fe_h"), ("s2", "fe_h")}
