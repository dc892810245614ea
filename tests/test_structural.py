"""Trends in true labels, end to end: what is refused, how stars are grouped, and what a run answers."""

import tomllib

import numpy as np
import pytest

from hbcal import HbcalError, calibrate, load_recipe, simulate
from hbcal.catalogue.target import Query, Target
from hbcal.checking import check_run
from hbcal.design import prepare
from hbcal.recipe import packaged_recipes, parse_recipe
from hbcal.structural import structural

NAME = "pipeline_response"


def changed(**tables):
    """The packaged recipe's tables, some replaced; a function changes one in place."""
    table = tomllib.loads(packaged_recipes()[NAME].read_text())
    for key, value in tables.items():
        if callable(value):
            value(table[key])
        else:
            table[key] = value
    return table


BAD = {
    "no anchor of a label": ({"surveys": lambda s: s["reference"].update(anchor=["fe_h"])}, "'logg' has no anchor"),
    "nonlinear": ({"trend": lambda t: t[0].update(degree=2)}, "not linear depends on 'true_logg', the true logg"),
    "spline": ({"trend": lambda t: t[0].update(basis="spline")}, "not linear depends on 'true_logg'"),
    "held": ({"trend": lambda t: t[0].update(hold=2.0)}, "not linear depends on 'true_logg'"),
    "clip": ({"clip": 3.0}, "clips at 3, but crosscal_structural keeps all"),
    "another program": ({"program": "crosscal"}, "is a true label, but crosscal takes covariates as observed"),
    "robust": ({"program": "crosscal_robust"}, "is a true label, but crosscal_robust takes covariates as observed"),
    "no population": ({"labels": lambda l: l["logg"].pop("population")}, "population of label 'logg' is"),
    "unknown label": ({"covariates": lambda c: c["true_logg"].update(true="loog")}, "did you mean 'logg'"),
    "own report": ({"covariates": lambda c: c.update(mine={"own": "logg"})}, "'mine' is own 'logg'"),
    "consensus": ({"covariates": lambda c: c.update(all={"consensus": "logg"})}, "'all' is consensus 'logg'"),
    "two of one": (
        {"covariates": lambda c: c.update(again={"true": "logg"})},
        "Two covariates are the true label 'logg'",
    ),
    "floor": ({"floor": [{"covariates": ["true_logg"]}]}, "A floor of the recipe depends on 'true_logg'"),
    "clusters": ({"clusters": {"open": {"file": "m.csv", "spread": {"fe_h": 0.03}}}}, "has clusters .*open.*, which"),
    "dependent": ({"surveys": lambda s: s["optical"].update(depends_on=["infrared"])}, "'optical' has 'depends_on'"),
}


@pytest.mark.parametrize("what", BAD)
def test_recipes_that_are_refused(what):
    tables, told = BAD[what]
    with pytest.raises(HbcalError, match=told) as error:
        parse_recipe(changed(**tables))
    assert str(error.value).count("\n") == 0


def test_a_measurement_read_as_a_covariate_is_refused():
    wide = {
        "file": "w.csv", "layout": "wide", "covariates": {"colour": {"column": "g", "survey": "optical"}},
        "measurements": [{"survey": s, "label": "logg", "value": v} for s, v in (("optical", "g"), ("reference", "r"))],
    }  # fmt: skip
    with pytest.raises(HbcalError, match="'colour' is a measurement: crosscal_structural"):
        parse_recipe(changed(data=[wide]))


@pytest.fixture(scope="module")
def sky():
    return simulate(NAME, seed=1, n_star=300)


def test_an_anchor_without_data_is_refused(sky):
    cat = sky.catalogue
    keep = (cat.survey != 0) | (cat.label != cat.labels.index("logg"))
    with pytest.raises(HbcalError, match="No anchor of 'logg' has data"):
        prepare(load_recipe(NAME), cat.select(keep))


def test_a_true_label_that_only_one_survey_reports_is_refused(sky):
    cat = sky.catalogue
    keep = (cat.survey == 0) | (cat.label != cat.labels.index("logg"))
    with pytest.raises(HbcalError, match="depends on the true 'logg', which fewer than two surveys report"):
        prepare(load_recipe(NAME), cat.select(keep))


def test_noise_known_only_in_sums_is_refused(sky):
    cat = sky.catalogue
    recipe = parse_recipe(changed(surveys=lambda s: s["reference"].update(free=["floor"])))
    with pytest.raises(HbcalError, match="only sums of two surveys' noise"):
        prepare(recipe, cat.select(cat.survey != 2))


def test_measurements_without_the_true_label_they_depend_on_are_left_out_and_counted(sky):
    cat = sky.catalogue
    some = np.unique(cat.star)[:40]
    keep = ~(np.isin(cat.star, some) & (cat.label == cat.labels.index("logg")))
    left = prepare(load_recipe(NAME), cat.select(keep)).catalogue
    gone = keep & np.isin(cat.star, some) & (cat.survey > 0)
    assert sum(n for reason, n in left.left_out.items() if reason.startswith("no logg, on which")) == gone.sum()


def test_stars_are_grouped_by_who_saw_them_and_few_are_pooled(sky):
    prepared = prepare(load_recipe(NAME), sky.catalogue)
    cat, groups = prepared.catalogue, prepared.groups
    for g, name in enumerate(groups.names):
        stars = np.flatnonzero(groups.of_star == g)
        assert len(stars) >= 20
        for star in stars:
            saw = {cat.surveys[s] for s in cat.survey[cat.star == star]}
            assert name == "few" or saw == set(name.split("+"))
    fewer = prepare(load_recipe(NAME), cat.select(cat.star < 60))
    assert "few" in fewer.groups.names or len(fewer.groups.names) < len(groups.names)
    laid_out = np.concatenate(structural(prepared).rows)
    np.testing.assert_array_equal(np.sort(laid_out[laid_out >= 0]), groups.rows)


@pytest.fixture(scope="module")
def run(sky, tmp_path_factory):
    return calibrate(NAME, sky.catalogue, tmp_path_factory.mktemp("run") / "out", seed=1, workers=0)


def rows_of(sky, survey, labels=("logg", "fe_h")):
    cat, s = sky.catalogue, sky.catalogue.surveys.index(survey)
    stars = np.unique(cat.star[cat.survey == s])
    value, error = ({label: np.full(cat.n_star, np.nan) for label in labels} for _ in range(2))
    for label in labels:
        at = (cat.survey == s) & (cat.label == cat.labels.index(label))
        value[label][cat.star[at]], error[label][cat.star[at]] = cat.value[at], cat.error[at]
    pick = lambda table: {label: each[stars] for label, each in table.items()}  # noqa: E731
    nothing = np.full(len(stars), "", dtype=object)
    return stars, Target(survey, cat.stars[stars], pick(value), pick(error), {}, cat.x[stars, s], nothing, False)


def test_a_run_covers_the_truth_and_names_its_axes(run, sky):
    assert run.passed, run.diagnostics_text
    posterior = run.posterior
    assert posterior["population_mean"].dims == ("chain", "draw", "group", "label")
    assert posterior["population_corr"].dims[2:] == ("group", "label", "label_2")
    away = []
    for name in ("offset", "trend", "error_scale", "floor", "population_mean", "population_sd"):
        draws, truth = posterior[name].stack(sample=("chain", "draw")), sky.truth[name].squeeze(("chain", "draw"))
        sd = draws.std("sample")
        z = ((draws.mean("sample") - truth) / sd).where(sd > 0).to_numpy()
        away += z[np.isfinite(z)].tolist()
    assert len(away) > 25
    assert np.sqrt(np.mean(np.square(away))) < 1.6
    assert np.max(np.abs(away)) < 4.0


@pytest.mark.parametrize("survey", ["infrared", "optical"])
def test_apply_solves_for_the_true_labels(run, sky, survey):
    stars, target = rows_of(sky, survey)
    applied = run.apply(target, survey)
    away = applied.value - sky.z[stars]
    raw = np.stack([target.value[label] for label in applied.labels], axis=1) - sky.z[stars]
    assert (np.abs(np.median(away, axis=0)) < 0.5 * np.abs(np.median(raw, axis=0)) + 0.015).all()
    white = np.linalg.solve(np.linalg.cholesky(applied.covariance), away[..., None])[..., 0]
    assert np.abs(np.cov(white.T) - np.eye(2)).max() < 0.3
    shared = run.covariance(target, survey, "fe_h")
    np.testing.assert_allclose(np.sqrt(np.diag(shared)), applied.columns["fe_h_err"], rtol=1e-9)
    inside = (applied.columns["logg_q16"] < sky.z[stars, 0]) & (sky.z[stars, 0] < applied.columns["logg_q84"])
    assert 0.55 < inside.mean() < 0.8


def test_apply_has_no_answer_where_it_would_need_a_label_that_is_not_there(run, sky):
    _, target = rows_of(sky, "optical", ("fe_h",))
    applied = run.apply(target, "optical")
    assert np.isnan(applied.value).all()
    assert set(applied.columns["reason"]) == {"no logg, on which fe_h depends"}


def test_predict_and_check_agree_with_what_was_measured(run, sky):
    cat = sky.catalogue
    rows = np.flatnonzero(cat.survey == 1)[:200]
    names = (np.array(x, dtype=object)[i[rows]] for x, i in ((cat.surveys, cat.survey), (cat.labels, cat.label)))
    answer = run.predict(Query(cat.stars[cat.star[rows]], *names, cat.error[rows], cat.value[rows])).columns
    assert not any(answer["reason"])
    assert 0.4 < answer["pit"].mean() < 0.6
    assert check_run(run).failures == []
