"""The comparison with a reference posterior sees a planted change, and only that."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "reference.py"


@pytest.fixture(scope="module")
def moved():
    spec = importlib.util.spec_from_file_location("reference", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.moved


def summary(draws):
    return {name: [float(d.mean()), float(d.std()), float(len(d))] for name, d in draws.items()}


@pytest.fixture(scope="module")
def two():
    rng = np.random.default_rng(1)
    return [{name: rng.normal(0.3, 0.02, 800) for name in ("offset[a]", "floor[a]")} for _ in range(2)]


def test_two_fits_of_one_posterior_agree(moved, two):
    assert moved(*map(summary, two)) == []


@pytest.mark.parametrize("change", [lambda d: d + 0.01, lambda d: 0.3 + 1.3 * (d - 0.3), lambda d: d * np.nan])
def test_a_planted_change_is_seen(moved, two, change):
    one, other = two
    lines = moved(summary({**one, "floor[a]": change(one["floor[a]"])}), summary(other))
    assert [line.split(":")[0] for line in lines] == ["floor[a]"]


def test_what_the_recipe_fixes_is_not_compared_by_its_noise(moved):
    anchor = {"offset[anchor]": [0.0, 0.0, float("nan")]}
    assert moved(anchor, anchor) == []
    assert moved({"offset[anchor]": [0.1, 0.0, float("nan")]}, anchor) != []


def test_a_quantity_that_came_or_went_is_seen(moved, two):
    one, other = map(summary, two)
    assert moved({**one, "floor[b]": [0.0, 1.0, 400.0]}, other) == ["floor[b]: only in one of the two"]
