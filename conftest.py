"""Helpers for doctests and tests: a tiny sky, its design, a run fitted to it. Each is made once per process."""

import atexit
import functools
import gc
import os
import shutil
import tempfile
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest

# What is compiled once is kept for the other tests of this process and the workers they start. A folder per process:
# JAX does not write its files atomically.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="hbcal_compiled_")
atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


MOST_MAPPINGS = 30_000


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """Drop compiled programs when they are many: Linux allows 65,530 mappings, and LLVM aborts the process beyond."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPPINGS:
        import jax

        jax.clear_caches()
        gc.collect()


@functools.cache
def tiny_sky():
    """The textbook sky with 80 stars, half of them seen by the anchor s0."""
    from hbcal import simulate

    return simulate(_recipe(), seed=1)


@functools.cache
def tiny_prepared():
    """The design of `tiny_sky`."""
    from hbcal.design import prepare

    return prepare(_recipe(), tiny_sky().catalogue)


@functools.cache
def tiny_network():
    """`tiny_sky` with a survey `compiled` that depends on s1 and s2, prepared; and the voters' posterior."""
    from dataclasses import replace

    from hbcal.design import prepare
    from hbcal.recipe import parse_recipe

    table = tomllib.loads(_recipe_text())
    table["surveys"]["compiled"] = {"depends_on": ["s1", "s2"]}
    cat, rng = tiny_sky().catalogue, np.random.default_rng(3)
    source = np.flatnonzero(np.isin(cat.survey, [1, 2]))
    _, first = np.unique(cat.star[source], return_index=True)
    rows = source[first]
    n = len(rows)
    copied = rng.random(n) < 0.7
    value = np.where(copied, cat.value[rows], cat.value[rows] + rng.normal(0.1, 0.1, n))
    join = lambda old, new: np.concatenate([old, new])  # noqa: E731
    whole = replace(
        cat, surveys=(*cat.surveys, "compiled"), star=join(cat.star, cat.star[rows]),
        survey=join(cat.survey, np.full(n, 3)), label=join(cat.label, cat.label[rows]),
        value=join(cat.value, value), error=join(cat.error, np.full(n, 0.05)),
        x=np.concatenate([cat.x, cat.x[:, :1]], axis=1),
    )  # fmt: skip
    prepared = prepare(parse_recipe(table), whole)
    return prepared, tiny_run().posterior.reindex(survey=list(whole.surveys))


@functools.cache
def tiny_spectra(n=400, seed=5):
    """Spectra of 6 pixels of a few stars, quadratic in teff and fe_h before the stretch, with noise of 0.01."""
    from hbcal.emulator.base import SOFTENING
    from hbcal.spectra.container import Spectra

    weights = np.random.default_rng(5).normal(size=(6, 6)) * np.array([1.0, 0.3, 0.3, 0.03, 0.03, 0.03])[:, None]
    weights[0] = 2.0 + 0.3 * weights[0]  # a positive median
    rng = np.random.default_rng([seed, 1])
    x = rng.normal(size=(n, 2))
    phi = np.stack([np.ones(n), *x.T, x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2], axis=1)
    flux = SOFTENING * np.sinh(phi @ weights + 0.01 * rng.normal(size=(n, 6)))
    labels = x * [500.0, 0.3] + [5000.0, -0.2]
    ids = np.array([f"s{seed}_{i}" for i in range(n)])
    err = 0.01 * np.hypot(SOFTENING, flux)  # what noise of 0.01 after the stretch is before it
    return Spectra(np.arange(6.0), flux, err, ids, labels, np.zeros_like(labels), ("teff", "fe_h"))


@functools.cache
def tiny_populations():
    """A recipe of populations of two elements, two components."""
    from hbcal.population_recipe import parse_populations

    elements = {name: {"value": name, "error": [f"{name}_err"]} for name in ("fe_h", "mg_fe")}
    sampling = {"chains": 4, "warmup": 100, "draws": 400, "fast_warmup": 200, "fast_draws": 1500, "fast_sweeps": 4}
    return parse_populations({
        "name": "tiny", "title": "two populations", "elements": elements, "stars": {"file": "stars.csv"},
        "mixture": {"components": 2}, "sampling": sampling,
    })  # fmt: skip


@functools.cache
def tiny_abundances():
    """120 stars of two populations that lie apart, some elements not measured."""
    from hbcal.catalogue.abundances import Abundances

    rng = np.random.default_rng(2)
    value = np.array([[-0.8, 0.3], [0.0, 0.0]])[np.arange(120) // 40 % 2] + 0.1 * rng.normal(size=(120, 2))
    value[::7, 0] = np.nan
    star = np.array([f"star{i:03d}" for i in range(120)], object)
    covariance = np.tile(0.05**2 * np.eye(2), (120, 1, 1))
    return Abundances(star, ("fe_h", "mg_fe"), ("dex", "dex"), value, covariance, {})


@functools.cache
def tiny_population_run():
    """`tiny_abundances` fitted by the fast mode."""
    import jax

    from hbcal.populations import populations

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with jax.numpy_rank_promotion("allow"):  # NumPyro's LKJ multiplies vectors by matrices
        return populations(tiny_populations(), tiny_abundances(), folder / "run", fast=True, workers=0)


@functools.cache
def tiny_mixture():
    """The design of the mixture of `tiny_abundances`."""
    from hbcal.population_design import pose

    return pose(tiny_abundances(), tiny_populations(), 1).task.args[0]


@functools.cache
def tiny_emulator():
    """A quadratic emulator of `tiny_spectra`."""
    from hbcal.training import train_emulator

    return train_emulator(tiny_spectra(), _home() / "emulator", method="quadratic", noise="correlated")


@functools.cache
def tiny_pixels():
    """A quadratic emulator of `tiny_spectra`, the pixels taken as independent."""
    from hbcal.training import train_emulator

    return train_emulator(tiny_spectra(), _home() / "pixels", method="quadratic", noise="independent")


@functools.cache
def tiny_structural():
    """A small sky of the recipe `pipeline_response`, prepared."""
    from hbcal import load_recipe, simulate
    from hbcal.design import prepare

    recipe = load_recipe("pipeline_response")
    return prepare(recipe, simulate(recipe, seed=1, n_star=120).catalogue)


@functools.cache
def tiny_correlated():
    """`tiny_sky` with a second label, both of a survey with correlated errors; prepared."""
    from hbcal import simulate
    from hbcal.design import prepare

    return prepare(_correlated_recipe(), simulate(_correlated_recipe(), seed=1).catalogue)


@functools.cache
def tiny_correlated_run():
    """A finished run on `tiny_correlated`, of too few draws."""
    return _quick_run(tiny_correlated(), "correlated")


def _quick_run(prepared, name):
    from hbcal.calibration import ConvergenceWarning, calibrate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        settings = {"workers": 0, "chains": 2, "warmup": 100, "draws": 100}
        return calibrate(prepared.recipe, prepared.catalogue, _home() / name, **settings)


def _correlated_recipe():
    from hbcal.recipe import parse_recipe

    table = tomllib.loads(_recipe_text()) | {"name": "correlated", "program": "crosscal_correlated"}
    table["labels"]["mg_h"] = table["labels"]["fe_h"]
    both = list(table["labels"])
    surveys = {"s0": {"anchor": both}, "s1": {"correlated": both}, "s2": {"correlated": both}}
    table |= {"surveys": surveys}
    table["simulate"] |= {"error_low": dict.fromkeys(both, 0.03), "error_high": dict.fromkeys(both, 0.08)}
    return parse_recipe(table)


@functools.cache
def tiny_clusters():
    """One survey alone, 60 stars, most of them in one of three clusters; prepared."""
    from hbcal import simulate
    from hbcal.design import prepare
    from hbcal.recipe import parse_recipe

    table = tomllib.loads(_recipe_text())
    table |= {"surveys": {"s1": {}}, "clusters": {"open": {"file": "members.csv", "spread": {"fe_h": 0.03}}}}
    table["simulate"] |= {"n_star": 60, "seen": {"s1": 1.0}, "n_cluster": {"open": 3}}
    recipe = parse_recipe(table)
    return prepare(recipe, simulate(recipe, seed=1).catalogue)


@functools.cache
def tiny_cluster_run():
    """A finished run on `tiny_clusters`, of too few draws."""
    return _quick_run(tiny_clusters(), "clusters")


@functools.cache
def tiny_folder():
    """A folder with the files of `tiny_sky`."""
    from hbcal import simulate

    simulate(_recipe(), _home() / "sky", seed=1)
    return _home() / "sky"


@functools.cache
def tiny_target():
    """The first three stars of `tiny_sky` that s1 measured, to be put on the common scale."""
    from hbcal.catalogue.target import Target

    cat = tiny_sky().catalogue
    rows = np.flatnonzero(cat.survey == cat.surveys.index("s1"))[:3]
    star = cat.star[rows]
    value, error = {"fe_h": cat.value[rows]}, {"fe_h": cat.error[rows]}
    nothing = np.full(3, "", dtype=object)
    return Target("s1", cat.stars[star], value, error, {}, cat.x[star, 1], nothing, False)


@functools.cache
def tiny_target_of_two():
    """The first three visits of s1 in `tiny_correlated`, both labels."""
    from hbcal.catalogue.target import Target
    from hbcal.visits import visit_table

    cat = tiny_correlated().catalogue
    rows = visit_table(cat, 1)[:3]
    value, error = ({name: v[rows[:, l]] for l, name in enumerate(cat.labels)} for v in (cat.value, cat.error))
    star = cat.star[rows[:, 0]]
    return Target("s1", cat.stars[star], value, error, {}, cat.x[star, 1], np.full(3, "", dtype=object), False)


@functools.cache
def _home():
    """A folder that goes with the process that made it."""
    home = Path(tempfile.mkdtemp(prefix="hbcal_tiny_"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


@functools.cache
def tiny_run():
    """A finished run on `tiny_sky`: too few draws to pass its diagnostics, enough to show what a run can do."""
    from hbcal.calibration import ConvergenceWarning, calibrate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return calibrate(_recipe(), tiny_sky().catalogue, _home() / "run", workers=0, chains=2, warmup=100, draws=200)


def _recipe_text():
    from hbcal.recipe import packaged_recipes

    text = packaged_recipes()["textbook"].read_text()
    return text.replace("n_star = 1000", "n_star = 80").replace("s0 = 0.03", "s0 = 0.5")


def _recipe():
    from hbcal.recipe import parse_recipe

    return parse_recipe(tomllib.loads(_recipe_text()), _recipe_text())


@pytest.fixture(autouse=True)
def _helpers(doctest_namespace):
    helpers = (
        tiny_sky, tiny_prepared, tiny_network, tiny_structural, tiny_clusters, tiny_cluster_run, tiny_correlated,
        tiny_correlated_run, tiny_run, tiny_folder, tiny_target, tiny_target_of_two,
        tiny_spectra, tiny_emulator, tiny_pixels, tiny_mixture, tiny_populations, tiny_abundances,
        tiny_population_run,
    )  # fmt: skip
    for helper in helpers:
        doctest_namespace[helper.__name__] = helper


@pytest.fixture(scope="session", name="optical_table")
def _optical_table():
    """Stars of the optical survey of a sky of the recipe `demo`, as a wide table; and their rows in the catalogue."""
    import pandas as pd

    def table_of(cat):
        survey, table = cat.surveys.index("optical"), pd.DataFrame({"star": cat.stars})
        for l, label in enumerate(cat.labels):
            at = (cat.survey == survey) & (cat.label == l)
            rows = pd.DataFrame({"star": cat.stars[cat.star[at]], label: cat.value[at], f"{label}_err": cat.error[at]})
            table = table.merge(rows, on="star")
        where = pd.Index(cat.stars).get_indexer(table["star"])
        for c, name in enumerate(cat.covariates):
            table[name] = cat.x[where, survey, c]
        table["kind"] = np.array(["dwarf", "giant"])[table["kind"].astype(int)]
        return table, where

    return table_of


@pytest.fixture(scope="session", name="tiny_sky")
def _tiny_sky():
    return tiny_sky()


@pytest.fixture(scope="session", name="tiny_prepared")
def _tiny_prepared():
    return tiny_prepared()


@pytest.fixture(scope="session", name="tiny_run")
def _tiny_run():
    return tiny_run()


@pytest.fixture(scope="session", name="tiny_cluster_run")
def _tiny_cluster_run():
    return tiny_cluster_run()


@pytest.fixture(scope="session", name="tiny_network")
def _tiny_network():
    return tiny_network()


@pytest.fixture(scope="session", name="tiny_structural")
def _tiny_structural():
    return tiny_structural()


@pytest.fixture(scope="session", name="tiny_spectra")
def _tiny_spectra():
    return tiny_spectra


@pytest.fixture(scope="session", name="tiny_pixels")
def _tiny_pixels():
    return tiny_pixels()


@pytest.fixture(scope="session", name="tiny_emulator")
def _tiny_emulator():
    return tiny_emulator()
