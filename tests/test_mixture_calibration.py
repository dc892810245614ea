"""A calibration that all stars share: how far the populations move with it, cut and joint, and from a run's folder."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tomli_w
from numpyro.handlers import seed, trace
from scipy.stats import ks_2samp

from hbcal import calibrate, load_recipe, simulate
from hbcal._errors import HbcalError
from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.abundances import Abundances, read_abundances
from hbcal.common_scale import put_on_scale
from hbcal.infer.sample import sample
from hbcal.infer.task import Settings
from hbcal.mixture_calibration import joint_sweep
from hbcal.numerics.stars import pack_stars
from hbcal.numerics.sticks import log_weights
from hbcal.population_design import pose
from hbcal.population_recipe import parse_populations
from hbcal.population_run import open_populations
from hbcal.populations import populations
from hbcal.programs.dp_mixture import MixtureDesign, MixturePriors
from hbcal.programs.dp_mixture_calibrated import dp_mixture_calibrated

ELEMENTS = {name: {"value": name, "error": [f"{name}_err"]} for name in ("fe_h", "mg_fe")}
SAMPLING = {"chains": 2, "warmup": 100, "draws": 400, "sweeps": 4, "fast_warmup": 200, "fast_draws": 1500,
            "extend": 1}  # fmt: skip
RECIPE = parse_populations({
    "name": "two", "title": "two populations", "elements": ELEMENTS, "stars": {"file": "stars.csv"},
    "mixture": {"components": 2}, "sampling": SAMPLING,
})  # fmt: skip
N, SD = 300, 0.08
MOVES = 0.03  # of a population, per unit of u: five times what its mean is known to


def sky(kind):
    """Two populations of equal weight, and a calibration that moves both alike, or one up and the other down."""
    rng, which = np.random.default_rng(0), np.arange(N) % 2
    value = np.array([[-0.6, 0.3], [0.0, 0.0]])[which] + SD * rng.normal(size=(N, 2))
    shift = np.zeros((N, 2, 1))
    shift[:, 0, 0] = MOVES * (np.where(which == 1, 1.0, -1.0) if kind == "trend" else 1.0)
    star = np.array([f"s{i}" for i in range(N)], object)
    return Abundances(star, tuple(ELEMENTS), ("dex", "dex"), value, np.tile(0.03**2 * np.eye(2), (N, 1, 1)), {}, shift)


def fitted(stars, out, **settings):
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):  # NumPyro's LKJ multiplies vectors by matrices
        warnings.simplefilter("ignore", ConvergenceWarning)  # few draws
        return populations(RECIPE, stars, out, workers=0, **{"fast": True, **settings})


def means(run):
    """[Fe/H] of the richer and the poorer population, per draw, and u of those draws."""
    drawn = run.populations["mean"].sel(element="fe_h").to_numpy()
    order = np.argsort(-np.nanmean(drawn, axis=0))
    return drawn[:, order], run.tree["components"]["calibration"].to_numpy()


@pytest.fixture(scope="module", name="still")
def _still(tmp_path_factory):
    """The calibration taken at its mean: sd of the two means."""
    return means(fitted(replace(sky("offset"), shift=None), tmp_path_factory.mktemp("still") / "run"))[0].std(0)


@pytest.mark.parametrize("kind", ["offset", "trend"])
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_cut_populations_follow_the_calibration(kind, fast, still, tmp_path):
    """Each mean is as uncertain as the calibration and the stars together; u keeps to its own posterior."""
    run = fitted(sky(kind), tmp_path / "run", fast=fast)
    drawn, u = means(run)
    wanted = np.hypot(still, MOVES)
    np.testing.assert_allclose(drawn.std(0), wanted, rtol=0.2)  # 400 draws
    assert (still < 0.4 * wanted).all()  # what is told without the calibration is visibly overconfident
    every = run.posterior["calibration"].to_numpy().ravel()
    assert abs(every.mean()) < 0.25
    assert abs(every.std() - 1.0) < 0.2
    sign = np.array([1.0, -1.0 if kind == "trend" else 1.0])
    slope = [np.polyfit(u[:, 0], drawn[:, k], 1)[0] for k in range(2)]
    np.testing.assert_allclose(slope, MOVES * sign, rtol=0.15)


def test_a_calibration_that_is_left_behind_is_caught(still, tmp_path, monkeypatch):
    """The planted defect: u wanders, and the stars do not go with it."""
    monkeypatch.setattr("hbcal.numerics.stars.Stars.moved", lambda self, u: self)
    monkeypatch.setattr("hbcal.mixture_calibration._step", lambda key, sites, design: {
        **sites, "calibration": jax.random.normal(key, sites["calibration"].shape)})  # fmt: skip
    drawn, _ = means(fitted(sky("offset"), tmp_path / "run"))
    assert (drawn.std(0) < 0.6 * np.hypot(still, MOVES)).all()


D, K, N_STAR = 2, 3, 30
PRIORS = MixturePriors(correlation=1.5, background=0.1)


def swept(key, n_sweep, n=1500):
    """Functions of sites drawn from the prior, after sweeps given stars simulated from them."""
    rng = np.random.default_rng(0)
    root = 0.3 * rng.normal(size=(N_STAR, D, D))
    shift = 0.6 * rng.normal(size=(N_STAR, D, 2)) + 0.3
    stars = pack_stars(np.zeros((N_STAR, D)), root @ root.swapaxes(1, 2), shift)
    stars = jax.tree.map(lambda leaf: leaf[..., :32], stars)
    design = MixtureDesign(stars, stars, np.zeros((1, 2), int), N_STAR, D, K)

    def one(key):
        key_prior, key_sweep = jax.random.split(key)
        model = trace(seed(lambda: dp_mixture_calibrated(design, priors=PRIORS), key_prior)).get_trace()
        sites = {name: site["value"] for name, site in model.items() if site["type"] == "sample"}
        y = sites.pop("y")
        if n_sweep:
            step = lambda sites, each: (joint_sweep(each, sites, design, y, priors=PRIORS), None)  # noqa: E731
            sites = jax.lax.scan(step, sites, jax.random.split(key_sweep, n_sweep))[0]
        weight = jnp.exp(log_weights(sites["stick"]))
        middle = weight @ sites["mean"]
        off = design.stars.with_value(y).moved(sites["calibration"]).value[0, :, :N_STAR] - middle[:, None]
        return jnp.stack([
            off.mean(), jnp.log((off**2).mean()),
            *sites["calibration"], *middle, weight.max(), sites["background"], sites["calibration"][0] * middle[0]
        ])  # fmt: skip

    with jax.numpy_rank_promotion("allow"):
        run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=200))
        return np.asarray(run(jax.random.split(jax.random.PRNGKey(key), n)))


@pytest.mark.slow
def test_joint_sweeps_leave_prior_and_simulation(monkeypatch):
    fresh = swept(0, 0)
    least = lambda other: min(ks_2samp(a, b).pvalue for a, b in zip(fresh.T, other.T, strict=True))  # noqa: E731
    assert least(swept(1, 4)) > 1e-4
    monkeypatch.setattr("hbcal.mixture_calibration.log_likelihood", lambda *args: 0.0)  # taken whatever the stars say
    assert least(swept(1, 4)) < 1e-4


@pytest.mark.slow
def test_nuts_moves_what_is_joint_and_holds_what_is_cut(tmp_path):
    """u is told by nothing but its prior when cut; joint, a trend that would blur a population is held by its stars."""
    rng = np.random.default_rng(1)
    stars = sky("offset")
    blur = np.zeros((N, 2, 1))
    blur[:, 0, 0] = 0.3 * rng.normal(size=N)  # values scatter more the farther u is from where they were made
    settings = Settings(2, 200, 400, 0, workers=0)
    spread = {}
    for joint in (False, True):
        posed = pose(replace(stars, shift=blur), RECIPE, 4, joint=joint)
        with jax.numpy_rank_promotion("allow"):
            spread[joint] = sample(posed.task, settings, tmp_path / str(joint))[0]["calibration"].std()
    assert abs(spread[False] - 1.0) < 0.2
    assert spread[True] < 0.2


@pytest.fixture(scope="module", name="home")
def _home(optical_table, tmp_path_factory):
    """A sky of two labels, calibrated; a table of its optical survey; a recipe of populations in those labels."""
    home, cat = tmp_path_factory.mktemp("calibrated"), simulate("demo", seed=4, n_star=600).catalogue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        calibrate(load_recipe("demo"), cat, home / "run", workers=0, chains=2, warmup=100, draws=150)
    table, _ = optical_table(cat)
    table.to_csv(home / "stars.csv", index=False)
    units = {"teff": "K", "fe_h": "dex"}
    elements = {n: {"value": n, "error": [f"{n}_err"], "unit": unit} for n, unit in units.items()}
    recipe = {"name": "two", "title": "t", "elements": elements, "stars": {"file": "stars.csv", "survey": "optical"},
              "mixture": {"components": 2}, "sampling": SAMPLING}  # fmt: skip
    (home / "populations.toml").write_text(tomli_w.dumps(recipe))
    return home, parse_populations(recipe), table


def test_a_run_puts_stars_on_its_scale_with_what_apply_says_of_each(home):
    from hbcal.run import open_run

    folder, recipe, _ = home
    run, raw = open_run(folder / "run"), read_abundances(recipe, folder)
    found, directions = put_on_scale(raw, run, folder / "stars.csv", "optical")
    applied = run.apply(folder / "stars.csv", "optical")
    at = [applied.labels.index(name) for name in found.elements]
    np.testing.assert_allclose(found.value, applied.value[:, at])
    whole = found.covariance + found.shift @ found.shift.swapaxes(1, 2)
    np.testing.assert_allclose(whole, applied.covariance[:, at][:, :, at], atol=1e-9)
    assert (np.linalg.eigvalsh(found.covariance) > 0).all()
    between = found.shift[:, 1] @ found.shift[:, 1].T  # of [Fe/H], star with star
    wanted = run.covariance(folder / "stars.csv", "optical", "fe_h")
    off = ~np.eye(len(between), dtype=bool)
    assert np.abs(between - wanted)[off].max() < 0.02 * np.abs(wanted[off]).max()
    few, _ = put_on_scale(raw.take(np.arange(5)), run, folder / "stars.csv", "optical", directions)
    np.testing.assert_allclose(few.shift, found.shift[:5])


def hbcal(*command):
    return subprocess.run(
        [sys.executable, "-m", "hbcal.cli", *map(str, command)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_command_line_goes_from_a_calibration_to_members(home, tmp_path):
    folder, recipe, table = home
    out = tmp_path / "out"
    done = hbcal("populations", folder / "populations.toml", "--data", folder, "--from-calibration", folder / "run",
                 "--out", out, "--fast", "--chains", 2, "--draws", 300, "--accept-failed")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "calibration of optical" in done.stdout + done.stderr
    run = open_populations(out)
    assert json.loads((out / "provenance.json").read_text())["calibration"] == "cut"
    done = hbcal("members", out, folder / "stars.csv", "--out", tmp_path / "members.csv")
    assert done.returncode == 0, done.stderr
    told = pd.read_csv(tmp_path / "members.csv")
    assert told["star"].tolist() == table["star"].tolist()
    np.testing.assert_allclose(told["prob_1"], run.stars["probability"].to_numpy()[:, 1], atol=1e-6)
    again = populations(recipe, folder, out, from_calibration=folder / "run", fast=True, chains=2, draws=300,
                        resume=True)  # fmt: skip
    assert again.stars.equals(run.stars)  # complete: nothing to resume


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stars": {"file": "stars.csv"}}, "does not say which survey"),
        ({"stars": {"file": "stars.csv", "survey": "optcal"}}, "knows no survey 'optcal'"),
        ({"elements": {"a": {"value": "fe_h", "error": ["fe_h_err"]}, "b": {"value": "teff", "error": ["teff_err"]}}},
         "name the recipe's elements as the run's labels"),
    ],
)  # fmt: skip
def test_a_calibration_that_does_not_fit_gets_its_sentence(change, said, home, tmp_path):
    folder, _, _ = home
    import tomllib

    table = tomllib.loads((folder / "populations.toml").read_text())
    with pytest.raises(HbcalError, match=said):
        populations(parse_populations({**table, **change}), folder, tmp_path / "x", from_calibration=folder / "run")
    assert not (tmp_path / "x").exists()


def test_values_without_an_error_have_the_calibrations(home, tmp_path):
    import tomllib

    from hbcal.run import open_run

    folder, recipe, _ = home
    table = tomllib.loads((folder / "populations.toml").read_text())
    bare = {name: {"value": name, "unit": spec["unit"]} for name, spec in table["elements"].items()}
    untold, run, path = parse_populations({**table, "elements": bare}), open_run(folder / "run"), folder / "stars.csv"
    found, wanted = (put_on_scale(read_abundances(each, folder), run, path, "optical")[0] for each in (untold, recipe))
    np.testing.assert_array_equal(found.value, wanted.value)
    np.testing.assert_array_equal(found.covariance, wanted.covariance)
    with pytest.raises(HbcalError, match="'teff', 'fe_h' have no error column, and there is no calibration"):
        populations(untold, folder, tmp_path / "x")
    more = {**table, "elements": {**bare, "snr": {"value": "fe_h_err"}}}
    with pytest.raises(HbcalError, match="'snr' have no error column, and the calibration does not know"):
        populations(parse_populations(more), folder, tmp_path / "x", from_calibration=folder / "run")
    del table["stars"]["survey"]
    with pytest.raises(HbcalError, match="'teff' has no error column"):
        parse_populations({**table, "elements": bare})
    assert not (tmp_path / "x").exists()


def test_stars_that_the_calibration_has_no_answer_for_are_left_out_and_counted(home, tmp_path):
    folder, recipe, table = home
    labels, table = list(recipe.elements), table.copy()
    # the recipe reads columns that stay as they are, the run those that are emptied
    elements = {name: replace(spec, value=f"{name}_2") for name, spec in recipe.elements.items()}
    for name in labels:
        table[f"{name}_2"] = table[name]
    recipe, table.loc[:9, labels] = replace(recipe, elements=elements), np.nan
    table.to_csv(tmp_path / "stars.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        run = populations(recipe, tmp_path, tmp_path / "out", from_calibration=folder / "run", fast=True, chains=2,
                          draws=20, warmup=20)  # fmt: skip
    assert run.stars["star"].to_numpy().tolist() == table["star"].astype(str).tolist()[10:]
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["left_out"]["star without any element"] == 10
    table.loc[1:, labels] = np.nan
    table.loc[:0, labels] = [5000.0, 0.0]
    table.to_csv(tmp_path / "stars.csv", index=False)
    with pytest.raises(HbcalError, match="the calibration has an answer, has 1 star"):
        populations(recipe, tmp_path, tmp_path / "none", from_calibration=folder / "run", fast=True)


def test_joint_without_a_calibration_gets_its_sentence(home, tmp_path):
    folder, recipe, _ = home
    with pytest.raises(HbcalError, match="joint needs a calibration"):
        populations(recipe, folder, tmp_path / "x", joint=True)
