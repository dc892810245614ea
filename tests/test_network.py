"""Outliers, dependent surveys and scales of their own: what a network of surveys needs, end to end and at the edges."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest

from hbcal import HbcalError, calibrate, load_recipe, simulate
from hbcal.calibration import ConvergenceWarning, CopyWarning
from hbcal.catalogue.target import Query
from hbcal.design import prepare, voting
from hbcal.draws import draws_of
from hbcal.problem import outlier_probability, pose
from hbcal.recipe import parse_recipe
from hbcal.start import find_start

TABLE = {
    "name": "network",
    "title": "",
    "program": "crosscal_robust",
    "labels": {"fe_h": {"unit": "dex", "offset_sd": 0.3, "floor_scale": 0.1, "range": [-20.0, 20.0]}},
    "surveys": {"s0": {"anchor": ["fe_h"]}, "s1": {}, "s2": {}},
    "covariates": {"x1": {}},
    "data": [{"file": "m.csv", "layout": "long"}],
    "trend": [{"covariates": ["x1"], "sd": 0.2}],
    "simulate": {
        "n_star": 300, "seen": {"s0": 0.3, "s1": 0.9, "s2": 0.9}, "star_low": {"x1": -1.0},
        "star_high": {"x1": 1.0}, "error_low": {"fe_h": 0.03}, "error_high": {"fe_h": 0.08},
    },
}  # fmt: skip
NOISE = {"floor": {"s1.fe_h": 0.05, "s2.fe_h": 0.08}, "error_scale": {"s1.fe_h": 1.0, "s2.fe_h": 1.0}}
TABLE["simulate"]["values"] = NOISE


def table(**surveys):
    out = copy.deepcopy(TABLE)
    for name, spec in surveys.items():
        out["surveys"][name] = {**out["surveys"].get(name, {}), **spec}
    return out


def with_survey(cat, rows, value, error):
    """The catalogue with a survey s3 whose measurements stand at the stars of these rows."""
    n = len(rows)
    join = lambda old, new: np.concatenate([old, new])  # noqa: E731
    return replace(
        cat, surveys=(*cat.surveys, "s3"), star=join(cat.star, cat.star[rows]), survey=join(cat.survey, np.full(n, 3)),
        label=join(cat.label, cat.label[rows]), value=join(cat.value, value), error=join(cat.error, np.full(n, error)),
        x=np.concatenate([cat.x, cat.x[:, :1]], axis=1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def sky():
    return simulate(parse_recipe(TABLE), seed=3)


def test_planted_blunders_have_high_probability_and_do_not_move_the_fit(sky):
    recipe, cat = parse_recipe(TABLE), sky.catalogue
    many = np.bincount(cat.star)[cat.star] == 3
    planted = np.flatnonzero(many & (cat.survey == 1))[:8]
    value = cat.value.copy()
    value[planted] += 0.8  # some twelve sd
    prepared = prepare(recipe, replace(cat, value=value))
    problem = pose(prepared)
    assert problem.converged
    sites = {name: np.asarray(v)[None, None] for name, v in problem.task.start.items()}
    probability = outlier_probability(prepared, sites)
    assert probability[planted].min() > 0.95
    others = np.delete(probability, planted)
    assert np.nanmean(others) < 0.05
    clean = pose(prepare(recipe, cat)).task.start
    np.testing.assert_allclose(problem.task.start["coef_fe_h"], clean["coef_fe_h"], atol=0.02)
    scatter = lambda start: np.hypot(start["floor"][0], 0.055 * start["error_scale"][0])  # noqa: E731
    assert scatter(problem.task.start) == pytest.approx(scatter(clean), rel=0.2)
    fragile = find_start(prepared).sites  # without outliers the same blunders make the survey look twice as bad
    assert scatter(fragile) > 1.7 * scatter(clean)


BENT = {**TABLE, "floor": [{"surveys": ["s2"], "covariates": ["x1"]}]}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """s2 scatters more at high x1; s3 compiles s1 and s2: a third copied from s1, the rest with noise of its own."""
    values = {"floor": {"s1.fe_h": 0.05, "s2.fe_h": 0.15}, "floor_trend": {"s2.fe_h.x1": 0.7}}
    sky = simulate(parse_recipe(BENT), seed=3, values=values)
    cat, rng = sky.catalogue, np.random.default_rng(5)
    rows = np.flatnonzero(cat.survey == 1)
    copied = rng.random(len(rows)) < 0.33
    value = np.where(copied, cat.value[rows], sky.z[cat.star[rows], 0] + 0.2 + rng.normal(0.0, 0.1, len(rows)))
    recipe = parse_recipe({**BENT, "surveys": {**BENT["surveys"], "s3": {"depends_on": ["s1", "s2"]}}})
    kept = rng.random(len(rows)) < 0.8
    whole = with_survey(cat, rows[kept], value[kept], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few draws
        out = tmp_path_factory.mktemp("network") / "run"
        run = calibrate(recipe, whole, out, chains=2, warmup=150, draws=150, workers=0)
    return run, rows[~kept], value[~kept], copied[~kept], cat


def test_a_dependent_survey_has_no_say(network):
    run, *_, cat = network
    assert not voting(run.recipe, run.catalogue)[run.catalogue.survey == 3].any()
    without = prepare(parse_recipe(BENT), cat)
    again = prepare(run.recipe, run.catalogue)
    np.testing.assert_array_equal(np.sort(again.y[0]), np.sort(without.y[0]))


def test_a_dependent_survey_is_predicted_copies_and_all(network):
    run, rows, value, copied, cat = network
    stars = cat.stars[cat.star[rows]].astype(object)
    named = [np.full(len(rows), name, dtype=object) for name in ("s3", "fe_h")]
    answer = run.predict(Query(stars, *named, np.full(len(rows), np.nan), value)).columns
    assert (answer["reason"] == "").all()
    inside = (answer["q05"] <= value) & (value <= answer["q95"])
    assert 0.8 < inside.mean() <= 1.0
    assert answer["log_density"][copied].mean() > answer["log_density"][~copied].mean() + 1.0  # it knows of the spike
    assert float(run.posterior["copy_odds"].sel(survey="s3", label="fe_h", parent="s1").mean()) > 0.2


def test_a_floor_that_follows_the_star_is_found_and_predicted_with(network):
    run, *_, cat = network
    slope = run.posterior["floor_trend"].sel(survey="s2", label="fe_h", floor_term="x1")
    assert abs(float(slope.mean()) - 0.7) < 3 * float(slope.std()) < 0.7
    stars = np.flatnonzero(cat.survey == 2)  # asked as if they were new
    named = [np.full(len(stars), name, dtype=object) for name in ("s2", "fe_h")]
    none = np.full(len(stars), np.nan)
    width = run.predict(Query(cat.stars[cat.star[stars]].astype(object), *named, none, none)).columns["sd"]
    x = cat.x[cat.star[stars], 2, 0]
    assert np.nanmedian(width[x > 0.6]) > 1.7 * np.nanmedian(width[x < -0.6])


def test_an_undeclared_copy_is_named(sky, tmp_path):
    cat = sky.catalogue
    rows = np.flatnonzero(cat.survey == 1)
    whole = with_survey(cat, rows, cat.value[rows], 0.05)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = calibrate(parse_recipe(table(s3={})), whole, tmp_path / "run", chains=2, warmup=20, draws=20, workers=0)
    assert any(w.category is CopyWarning and "s1 and s3 have fe_h equal" in str(w.message) for w in seen)
    assert "s1 and s3" in run.tree.attrs["copies"]


@pytest.mark.parametrize(
    ("surveys", "told"),
    [
        ({"s1": {"depends_on": ["s2"]}, "s2": {"depends_on": ["s1"]}}, "in a circle"),
        ({"s0": {"depends_on": ["s1"]}}, "is an anchor"),
        ({"s1": {"depends_on": ["s1"]}}, "in a circle"),
        ({"s1": {"depends_on": ["s9"]}}, "unknown survey to depend on 's9'"),
        ({"s0": {"own_scale": ["fe_h"]}}, "own_scale"),
    ],
)
def test_impossible_dependence_is_refused(surveys, told):
    with pytest.raises(HbcalError, match=told):
        parse_recipe(table(**surveys))


def test_a_scale_of_its_own_shares_no_star(sky):
    with pytest.raises(HbcalError, match=r"shares \d+ star\(s\) with voting surveys"):
        prepare(parse_recipe(table(s2={"own_scale": ["fe_h"]})), sky.catalogue)


def test_clipping_and_outliers_exclude_each_other():
    with pytest.raises(HbcalError, match="crosscal_robust keeps all measurements"):
        parse_recipe({**TABLE, "clip": 3.0})


def test_packaged_networks_parse():
    assert load_recipe("nearby_dwarfs").dependent == ("gr8_sed", "delgadomena17", "hypatia24")
    assert load_recipe("kepler_giants_robust").program == "crosscal_robust"


def test_outliers_are_drawn_at_their_rate_and_never_more_than_may_be():
    recipe = parse_recipe(table())
    s = simulate(recipe, seed=2, n_star=2000, values={"outlier_rate": {"s1.fe_h": 0.3, "s2.fe_h": 0.05}})
    cat = s.catalogue
    each = np.bincount(cat.star, s.outlier)
    seen = np.bincount(cat.star)
    assert (each <= np.where(seen > 2, 2, 1)).all()
    assert not s.outlier[cat.survey == 0].any()  # the anchor has none
    # two of s1 and s2 of the same star may not both be outliers where only they have seen it
    for survey, rate in ((1, 0.3), (2, 0.05)):
        alone = (seen[cat.star] > 2) & (cat.survey == survey)
        n = alone.sum()
        assert abs(s.outlier[alone].mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
    slope = s.truth["trend"].to_numpy()[0, 0, :, 0, 0]
    offset = s.truth["offset"].to_numpy()[0, 0, :, 0]
    shift = np.nan_to_num(offset + slope * cat.x[:, 0])[cat.star, cat.survey]
    floor = np.nan_to_num(s.truth["floor"].to_numpy()[0, 0, :, 0])[cat.survey]
    z = (cat.value - s.z[cat.star, 0] - shift) / np.hypot(cat.error, floor)
    assert np.std(z[~s.outlier]) == pytest.approx(1.0, abs=0.05)
    assert np.std(z[s.outlier]) == pytest.approx(10.0, rel=0.1)


def test_what_a_dependent_survey_reports_is_not_simulated_and_counted():
    simulated = simulate(parse_recipe(table(compiled={"depends_on": ["s1"]})), seed=1)
    assert simulated.catalogue.left_out["not simulated: not in the fit, or of a dependent survey"] > 100
    assert set(simulated.catalogue.survey) == {0, 1, 2}


@pytest.mark.data
def test_apogee_and_galah_differ_by_what_their_common_stars_say(catalogues, tmp_path):
    """The fitted difference, averaged over the stars in common, against the mean of the plain differences."""
    run = calibrate("apogee_galah", catalogues, tmp_path / "run", workers=0)
    assert run.passed, run.diagnostics_text
    cat = run.catalogue
    for survey in ("apogee_dr16", "apogee_dr17"):
        value = np.full((2, cat.n_star), np.nan)
        for row, name in zip(value, (survey, "galah_dr3"), strict=True):
            at = cat.survey == cat.surveys.index(name)
            row[cat.star[at]] = cat.value[at]
        both = np.isfinite(value).all(0)
        draws = [draws_of(run.recipe, run.posterior, name, "fe_h") for name in (survey, "galah_dr3")]
        fitted = [d.shift(cat.x[both, cat.surveys.index(d.survey)]).mean(0) for d in draws]
        fitted = fitted[0] - fitted[1]
        plain = value[0, both] - value[1, both]
        middle, scatter = np.median(plain), 1.4826 * np.median(np.abs(plain - np.median(plain)))
        plain = plain[np.abs(plain - middle) < 4 * scatter]  # the fit does not follow outliers either
        assert abs(fitted.mean() - plain.mean()) < 2.5 * plain.std() / np.sqrt(len(plain))
        assert fitted.std() < 0.015
