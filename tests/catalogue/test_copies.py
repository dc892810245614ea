"""Copies are found and named; honest surveys, rounded or not, are left alone."""

from dataclasses import replace

import numpy as np
import pytest

from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.copies import find_copies


def honest(seed, *, n_star=300, rounding=0.0):
    """Three surveys, noise 0.05, every star seen by all."""
    rng = np.random.default_rng(seed)
    star, survey = np.repeat(np.arange(n_star), 3), np.tile(np.arange(3), n_star)
    value = rng.uniform(-1, 0.5, n_star)[star] + rng.normal(0.0, 0.05, len(star))
    value = np.round(value / rounding) * rounding if rounding else value
    return Catalogue(
        np.array([f"s{i}" for i in range(n_star)], dtype=object), ("a", "b", "c"), ("fe_h",), (), star, survey,
        np.zeros(len(star), int), value, np.full(len(star), 0.05), np.zeros((n_star, 3, 0)), np.zeros(0, bool),
    )  # fmt: skip


def found(cat):
    copies = find_copies(cat, {"fe_h": 0.1}, np.ones(len(cat.value), bool))
    return {(c.survey, c.other): c for c in copies}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rounding", [0.0, 0.01, 0.02])
def test_honest_surveys_are_no_copies(seed, rounding):
    assert found(honest(seed, rounding=rounding)) == {}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("share", "offset", "noise"),
    [(1.0, 0.0, 0.0), (0.4, 0.0, 0.0), (0.5, -0.04, 0.0), (1.0, 0.0, 0.003), (1.0, 0.1, 0.0)],
)
def test_a_planted_copy_is_named(seed, share, offset, noise):
    cat, rng = honest(seed), np.random.default_rng(100 + seed)
    value = cat.value.reshape(-1, 3).copy()
    copied = rng.random(len(value)) < share
    value[copied, 2] = value[copied, 0] + offset + rng.normal(0.0, noise, copied.sum())
    copies = found(replace(cat, value=value.ravel()))
    assert set(copies) == {("a", "c")}
    assert copies["a", "c"].offset == pytest.approx(-offset, abs=0.004)
    assert "a and c have fe_h" in copies["a", "c"].text()


def test_what_does_not_vote_is_not_looked_at():
    cat = honest(0)
    value = cat.value.reshape(-1, 3).copy()
    value[:, 2] = value[:, 0]
    cat = replace(cat, value=value.ravel())
    assert find_copies(cat, {"fe_h": 0.1}, cat.survey != 2) == ()
