"""The third job end to end: what comes out, what changes it and what must not, and mistakes in what goes in."""

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
import xarray as xr
from sklearn.metrics import adjusted_rand_score

import hbcal.mixture_moves
from hbcal._errors import HbcalError
from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.abundances import Abundances, read_abundances
from hbcal.infer.diagnose import diagnose
from hbcal.numerics.partitions import representative
from hbcal.population_check import of_posterior, shares_below, statistics
from hbcal.population_design import pose, scale_of
from hbcal.population_recipe import load_populations, packaged_populations, parse_populations
from hbcal.population_run import open_populations
from hbcal.populations import populations

ELEMENTS = {name: {"value": name, "error": [f"{name}_err"]} for name in ("fe_h", "mg_fe", "al_fe")}
SAMPLING = {"fast_warmup": 200, "fast_draws": 300, "fast_sweeps": 3, "extend": 1}


def recipe(components=3, elements=ELEMENTS, **stars):
    return parse_populations({
        "name": "three", "title": "three populations", "elements": elements,
        "stars": {"file": "stars.csv", **stars}, "mixture": {"components": components}, "sampling": SAMPLING,
    })  # fmt: skip


def sky(n=500, seed=4, err=0.05):
    """Three populations that overlap in each element and hardly in all of them; 10% missing."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    mean = np.array([[0.0, 0.0, 0.0], [-0.5, 0.25, 0.2], [-0.9, 0.15, -0.3]])
    value = mean[which] + 0.1 * rng.normal(size=(n, 3)) + err * rng.normal(size=(n, 3))
    value[rng.random(value.shape) < 0.1] = np.nan
    value[np.isnan(value).all(axis=1), 0] = 0.0
    star = np.array([f"s{i}" for i in range(n)], object)
    return which, Abundances(star, tuple(ELEMENTS), ("dex",) * 3, value, np.tile(err**2 * np.eye(3), (n, 1, 1)), {})


def fitted(stars, tmp_path, **settings):
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):  # NumPyro's LKJ multiplies vectors by matrices
        warnings.simplefilter("ignore", ConvergenceWarning)  # few draws; tests look at what is wrong far beyond that
        return populations(settings.pop("recipe", recipe()), stars, tmp_path, fast=True, workers=0, **settings)


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory):
    which, stars = sky()
    return which, stars, fitted(stars, tmp_path_factory.mktemp("run") / "run")


def test_populations_are_found(run):
    which, _, found = run
    assert adjusted_rand_score(which, found.stars["population"]) > 0.9
    weight = found.populations["weight"].mean("some").to_numpy()
    assert np.abs(np.sort(weight)[::-1][:3] - [0.5, 0.3, 0.2]).max() < 0.06
    assert found.n_occupied[3] > 0.99
    assert set(found.posterior) == {"concentration", "background", "n_occupied", "log_density", "coclustering"}


def test_members_of_the_fitted_stars_are_those_of_the_run_in_any_order(run):
    _, stars, found = run
    rows = np.random.default_rng(0).permutation(len(stars.star))
    answer = found.members(stars.take(rows))
    assert answer["star"].tolist() == stars.star[rows].tolist()
    np.testing.assert_allclose(
        np.stack([answer[f"prob_{k}"] for k in range(found.stars.sizes["belongs_to"])], axis=1),
        found.stars["probability"].to_numpy()[rows], atol=1e-12,
    )  # fmt: skip


def test_stars_far_away_belong_nowhere_and_stars_without_elements_have_no_answer(run):
    _, stars, found = run
    odd = stars.take(np.array([0, 1]))
    odd = replace(odd, value=np.array([[3.0, -3.0, 3.0], [np.nan] * 3]))
    answer = found.members(odd)
    assert answer["population"].tolist() == [0, -1]
    assert answer["prob_0"][0] > 0.99
    assert np.isnan(answer["probability"][1])
    assert answer["reason"].tolist() == ["", "no element measured"]


def test_coclustering_and_probabilities_agree(run):
    _, _, found = run
    together = found.coclustering().to_numpy()
    np.testing.assert_allclose(np.diag(together), 1.0)
    np.testing.assert_allclose(together, together.T)
    population = found.stars["population"].to_numpy()
    one = population == 1
    assert together[np.ix_(one, one)].mean() > 0.8 > 0.2 > together[np.ix_(one, ~one)].mean()


def test_a_run_opens_and_says_what_it_found(run):
    _, _, found = run
    again = open_populations(found.path)
    assert again.n_occupied == found.n_occupied
    assert "populations, median and 90% interval" in (found.path / "report.txt").read_text()
    assert json.loads((found.path / "diagnostics.json").read_text())["n_quantity"] > 100


@pytest.mark.slow
def test_larger_errors_widen_memberships(run, tmp_path):
    _, stars, found = run
    wide = fitted(replace(stars, covariance=4.0 * stars.covariance), tmp_path / "wide")
    sure = lambda each: each.stars["probability"].max("belongs_to").mean().item()  # noqa: E731
    assert sure(wide) < sure(found)


@pytest.mark.slow
def test_larger_errors_never_add_populations(tmp_path):
    _, stars = sky()
    wide = replace(stars, covariance=4.0 * stars.covariance)
    few, many = (fitted(each, tmp_path / n, recipe=recipe(6)) for each, n in ((wide, "wide"), (stars, "as is")))
    assert few.posterior["n_occupied"].mean() <= many.posterior["n_occupied"].mean()


@pytest.mark.slow
def test_an_element_that_no_star_has_changes_nothing(run, tmp_path):
    _, stars, _ = run
    nothing = stars.value.copy()
    nothing[:, 2] = np.nan
    seen = np.isfinite(nothing).any(axis=1)
    with_it = fitted(replace(stars, value=nothing).take(seen), tmp_path / "with")
    two = dict(list(ELEMENTS.items())[:2])
    cut = Abundances(
        stars.star[seen], stars.elements[:2], ("dex",) * 2, stars.value[seen][:, :2],
        stars.covariance[seen][:, :2, :2], {},
    )  # fmt: skip
    without = fitted(cut, tmp_path / "without", recipe=recipe(elements=two))
    a, b = (np.sort(each.populations["weight"].mean("some"))[::-1][:2] for each in (with_it, without))
    sd = without.populations["weight"].std("some").max().item()
    assert np.abs(a - b).max() < 1.5 * sd  # other draws of the same posterior
    measured = replace(stars, value=nothing).take(seen)
    assert abs(with_it.log_predictive(measured).mean() - without.log_predictive(cut).mean()) < 0.05
    # and what it says of the element is its prior: in dex, since nothing gives it a spread
    told = with_it.log_predictive(stars.take(seen)) - with_it.log_predictive(measured)
    prior = -0.5 * np.log(2.0 * np.pi * (1.5**2 + np.exp(2.0 * np.log(0.4) + 2.0 * 0.7**2)))
    assert abs(told[np.isfinite(stars.value[seen][:, 2])].mean() - prior) < 0.3


@pytest.mark.slow
def test_without_errors_it_is_the_plain_mixture(tmp_path):
    """Population means are the means of their stars when there are no errors and no overlap."""
    which, stars = sky(err=1e-6)
    found = fitted(stars, tmp_path / "run")
    weight = found.populations["weight"].mean("some").to_numpy()
    share = np.bincount(which) / len(which)
    assert np.abs(np.sort(weight)[::-1][:3] - np.sort(share)[::-1]).max() < 0.03


@pytest.mark.slow
def test_a_chain_stuck_in_one_mode_is_caught(run, monkeypatch, tmp_path):
    """Three chains of a good run and one that was never let out of a single component."""
    _, stars, found = run
    monkeypatch.setattr(hbcal.mixture_moves, "JUMPS", 1)
    single = fitted(stars, tmp_path / "run", recipe=recipe(components=2), chains=1)
    names = ["concentration", "log_density", "coclustering"]
    both = {
        name: np.concatenate([each.posterior[name].to_numpy()[:3] for each in (found, single)]) for name in names
    }  # fmt: skip
    dims = lambda values: ("chain", "draw", *(f"of_{i}" for i in range(values.ndim - 2)))  # noqa: E731
    whole = {name: (dims(values), values) for name, values in both.items()}
    told = diagnose(xr.Dataset({name: whole[name] for name in names}), xr.Dataset())
    assert told.r_hat > 1.1
    assert not told.passed


@pytest.mark.slow
def test_interrupted_runs_resume_to_the_bit(tmp_path):
    _, stars = sky(n=150)
    straight = fitted(stars, tmp_path / "straight", chains=1, draws=120, warmup=50)
    with pytest.raises(KeyboardInterrupt):
        fitted(stars, tmp_path / "cut", chains=1, draws=120, warmup=50, progress=stop_after(110))
    assert not (tmp_path / "cut" / "populations.nc").exists()
    assert list((tmp_path / "cut" / "chains").glob("*.npz"))
    resumed = fitted(stars, tmp_path / "cut", chains=1, draws=120, warmup=50, resume=True)
    for name in straight.posterior:
        np.testing.assert_array_equal(straight.posterior[name], resumed.posterior[name])


@pytest.mark.slow
def test_chains_that_agree_go_on_until_they_have_told_enough(tmp_path, monkeypatch):
    _, stars = sky(n=150)
    brief = recipe()
    brief = replace(brief, sampling=replace(brief.sampling, chains=2, fast_warmup=50, fast_draws=60, extend=2))
    said = []
    monkeypatch.setattr("hbcal.populations.AGREE", 9.0)
    longest = fitted(stars, tmp_path / "longest", recipe=brief, progress=said.append)
    assert [text.split("going on, ")[1] for text in said if "going on" in text] == ["to 120 draws of each chain"]
    assert json.loads((tmp_path / "longest" / "provenance.json").read_text())["settings"]["draws"] == 120
    with pytest.raises(KeyboardInterrupt):
        fitted(stars, tmp_path / "cut", recipe=brief, progress=stop_after(2 * (50 + 60) + 5))
    resumed = fitted(stars, tmp_path / "cut", recipe=brief, resume=True)
    straight = fitted(stars, tmp_path / "straight", recipe=brief, draws=120)
    for name in longest.posterior:
        np.testing.assert_array_equal(longest.posterior[name], straight.posterior[name])
        np.testing.assert_array_equal(longest.posterior[name], resumed.posterior[name])


@pytest.mark.slow
def test_chains_in_different_places_are_not_helped_by_more_draws(tmp_path, monkeypatch):
    _, stars = sky(n=150)
    brief = recipe()
    brief = replace(brief, sampling=replace(brief.sampling, chains=2, fast_warmup=50, fast_draws=60, extend=2))
    monkeypatch.setattr("hbcal.populations.AGREE", 1.0)
    assert fitted(stars, tmp_path / "apart", recipe=brief).posterior.sizes["draw"] == 60


def stop_after(n):
    def say(text):
        if text.startswith("sampling: ") and int(text.split()[1].split("/")[0]) >= n:
            raise KeyboardInterrupt

    return say


def test_packaged_recipes_of_populations_are_whole():
    assert {"disc_populations", "halo_populations", "apogee_discs"} <= set(packaged_populations())
    for name in packaged_populations():
        assert load_populations(name).name == name
        assert (packaged_populations()[name].parent / "card.md").read_text().strip()


def test_scale_ignores_what_is_missing_and_what_is_wild():
    value = np.array([[0.0, np.nan], [1.0, 2.0], [2.0, 2.0], [1e6, 3.0], [1.0, np.nan]])
    centre, unit = scale_of(value)
    assert centre.tolist() == [1.0, 2.0]
    assert unit[0] == pytest.approx(1.4826)
    assert unit[1] > 0  # most have one value: their sd


def test_stars_are_drawn_by_a_rule(tmp_path):
    table().to_csv(tmp_path / "stars.csv", index=False)
    first, again = (read_abundances(recipe(subsample=20), tmp_path) for _ in range(2))
    assert len(first.star) == 20
    assert first.star.tolist() == again.star.tolist()
    assert first.left_out["not drawn into the subsample"] == 10


def test_the_representative_partition_is_the_nearest():
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], 20)
    draws = np.array([np.where(rng.random(60) < 0.05, rng.integers(3, size=60), true) for _ in range(100)])
    best, away = representative(draws)
    assert adjusted_rand_score(best, true) > 0.9
    assert away.mean() < 1.0


def table(n=30):
    rng = np.random.default_rng(1)
    columns = {"star": [f"s{i}" for i in range(n)]}
    for name in ELEMENTS:
        columns |= {name: rng.normal(size=n), f"{name}_err": np.full(n, 0.05)}
    return pd.DataFrame(columns)


def _with(column, row, value):
    def spoil(frame):
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
        return frame

    return spoil


BAD = {
    "constant element": (lambda t: t.assign(mg_fe=0.1), {}, "'mg_fe' is 0.1 for all 30 stars"),
    "duplicate stars": (_with("star", 3, "s1"), {}, "1 id(s) that are empty or occur twice, 's1'"),
    "negative error": (_with("al_fe_err", 2, -0.1), {}, "1 negative error(s) of 'al_fe', first in row 3"),
    "zero error": (_with("al_fe_err", 2, 0.0), {}, "1 zero error(s) of 'al_fe', first in row 3"),
    "infinite value": (_with("al_fe", 2, np.inf), {}, "1 infinite value(s)"),
    "fewer stars than components": (lambda t: t.head(3), {}, "has 3 star(s)"),
    "all missing": (lambda t: t.assign(**dict.fromkeys(ELEMENTS, np.nan)), {}, "has 0 star(s)"),
    "units mixed": (lambda t: t.assign(fe_h=100 * t.fe_h), {"range": [-5.0, 2.0]}, "the unit or the column is"),
    "no such column": (lambda t: t.drop(columns="fe_h"), {}, "fe_h"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_gets_its_sentence(mistake, tmp_path):
    spoil, more, said = BAD[mistake]
    spoil(table()).to_csv(tmp_path / "stars.csv", index=False)
    elements = {name: {**spec, **more} for name, spec in ELEMENTS.items()}
    with pytest.raises(HbcalError) as told:
        populations(recipe(4, elements), tmp_path, tmp_path / "out")
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


UNFIT = {
    "fewer stars than components": (lambda s: s.take(np.arange(2)), "has 2 star(s)"),
    "constant element": (lambda s: replace(s, value=np.abs(s.value * [1.0, 1.0, 0.0])), "'al_fe' is 0 for all"),
    "duplicate stars": (lambda s: replace(s, star=np.array(["a"] * 30, object)), "1 id(s) that are empty or occur"),
    "covariance that is none": (lambda s: replace(s, covariance=-s.covariance), "30 covariance(s) that are not"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", UNFIT)
def test_stars_that_no_mixture_fits_get_their_sentence_when_given_as_such_too(mistake, tmp_path):
    spoil, said = UNFIT[mistake]
    with pytest.raises(HbcalError) as told:
        populations(recipe(4), spoil(sky(n=30)[1]), tmp_path / "out")
    assert said in str(told.value)
    assert not (tmp_path / "out").exists()


def test_a_covariance_that_is_none_gets_its_sentence(tmp_path):
    covariance = np.tile(np.array([[0.01, 0.02], [0.02, 0.01]]), (30, 1, 1))
    names = ["fe_h", "mg_fe"]
    labels = xr.Dataset(
        {"value": (("star", "label"), np.random.default_rng(0).normal(size=(30, 2))),
         "covariance": (("star", "label", "label_2"), covariance)},
        {"star": np.array([f"s{i}" for i in range(30)], object), "label": names, "label_2": names},
    )  # fmt: skip
    labels.to_netcdf(tmp_path / "labels.nc", engine="h5netcdf")
    two = dict(list(ELEMENTS.items())[:2])
    with pytest.raises(HbcalError, match=r"30 covariance.s. that are not positive definite, first of star 's0'"):
        populations(recipe(elements=two, file="labels.nc"), tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("mixture", {"component": 3}, "unknown key 'component' (did you mean 'components'?)"),
        ("mixture", {"components": 1}, "components = 1: it must be at least 2"),
        ("mixture", {"background": 0.7}, "background = 0.7: give a share"),
        ("sampling", {"draws": 1}, "draws = 1: it must be at least 4"),
        ("elements", {"fe_h": ELEMENTS["fe_h"]}, "a mixture needs two or more"),
        ("elements", ELEMENTS | {"fe_h": {"value": "fe_h", "floor": 0.1}}, "no error column"),
    ],
)
def test_a_bad_recipe_gets_its_sentence(key, value, said):
    table = {"name": "x", "title": "x", "elements": ELEMENTS, "stars": {"file": "t.csv"}}
    with pytest.raises(HbcalError) as told:
        parse_populations(table | {key: value})
    assert said in str(told.value)


def test_the_command_line_fits_and_tells_members(tmp_path):
    _, stars = sky(n=150)
    frame = pd.DataFrame({"star": stars.star})
    for e, name in enumerate(stars.elements):
        frame[name], frame[f"{name}_err"] = stars.value[:, e], 0.05
    frame.to_csv(tmp_path / "stars.csv", index=False)
    (tmp_path / "three.toml").write_text(recipe(components=3).text)
    hbcal = [sys.executable, "-m", "hbcal.cli"]
    fit = [
        *hbcal,
        "populations",
        "three.toml",
        "--data",
        ".",
        "--out",
        "run",
        "--fast",
        "--draws",
        "40",
        "--chains",
        "2",
    ]
    done = subprocess.run([*fit, "--accept-failed"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [*hbcal, "members", "run", "stars.csv", "--out", "members.csv"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "members.csv")["star"].tolist() == stars.star.tolist()
    assert pose(stars, recipe(), 1).pairs.shape == (50, 2)


def test_the_demo_is_simulated_and_read(tmp_path):
    command = ["simulate", "populations_demo", "--out", str(tmp_path / "sky"), "--n-star", "300"]
    done = subprocess.run(
        [sys.executable, "-m", "hbcal.cli", *command], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stars = read_abundances(load_populations("populations_demo"), tmp_path / "sky")
    truth = pd.read_csv(tmp_path / "sky" / "truth.csv")
    assert truth["star"].tolist() == stars.star.tolist()
    assert truth["population"].nunique() == 4
    assert 0.05 < np.isnan(stars.value).mean() < 0.15


def test_checks_see_what_does_not_fit(run):
    """The posterior's simulations look like the stars; a planted defect, other stars, does not."""
    _, stars, found = run
    checks = found.tree["checks"].to_dataset()
    assert (np.abs(checks["posterior"] - 0.5) < 0.495).all()
    packed = found.packed(stars)
    wide = np.asarray(statistics(jnp.asarray(1.5 * packed.value), packed, len(stars.star)))
    shares = shares_below(of_posterior(found.components, packed, len(stars.star)), wide)
    assert (shares[0] == 1.0).all()


def test_left_out_stars_are_foretold_as_new_ones_are(run):
    """PSIS-LOO against stars that were really not fitted; and the density of fitted ones is larger."""
    _, stars, found = run
    fresh = found.log_predictive(sky(n=3000, seed=9)[1]).mean()
    left_out = found.stars["log_density"]
    assert abs(float(left_out.mean()) - fresh) < 4.0 * float(left_out.std()) / len(stars.star) ** 0.5
    assert float(left_out.mean()) < found.log_predictive(stars).mean()
    assert (found.stars["k_hat"] > 0.7).mean() < 0.02
