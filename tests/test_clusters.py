"""Clusters as constraints: a trend inside one survey, wrong members, real clusters, and lists that are refused."""

import copy
import os
import re
import warnings
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from hbcal import HbcalError, calibrate, load_recipe, simulate
from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.observe import observe
from hbcal.check.simulate_many import posteriors
from hbcal.design import named_quantities, prepare
from hbcal.problem import outlier_probability, pose, suspects
from hbcal.programs.crosscal import crosscal
from hbcal.recipe import parse_recipe
from hbcal.start import draw_coefficients

SD = 0.1  # prior sd of the trend
TABLE = {
    "name": "members",
    "title": "",
    "labels": {"fe_h": {"unit": "dex", "offset_sd": 0.1, "floor_scale": 0.05, "range": [-20.0, 20.0]}},
    "surveys": {"s1": {}},
    "covariates": {"teff": {"unit": "K", "centre": 5000.0, "scale": 300.0}},
    "data": [
        {"file": "m.csv", "layout": "long"},
        {"file": "s.csv", "layout": "stars", "covariates": {"teff": {"column": "teff"}}},
    ],
    "clusters": {"open": {"file": "c.csv", "probability": "p", "spread": {"fe_h": 0.03}}},
    "trend": [{"covariates": ["teff"], "degree": 1, "sd": SD}],
    "simulate": {
        "n_star": 100, "seen": {"s1": 1.0}, "error_low": {"fe_h": 0.01}, "error_high": {"fe_h": 0.04},
        "n_cluster": {"open": 5}, "star_low": {"z.fe_h": -0.5}, "star_high": {"z.fe_h": 0.3},
        "membership_low": {"open": 1.0},
    },
}  # fmt: skip


def table(program="crosscal", **simulation):
    out = copy.deepcopy(TABLE) | {"program": program}
    out["simulate"] |= simulation
    return out


def at_the_mode(prepared):
    """Trend and its 90% interval, the noise at its mode: with a hundred stars that is all but the posterior."""
    problem = pose(prepared)
    args = ({k: np.asarray(v) for k, v in problem.task.start.items()}, prepared.design, prepared.y)
    keys = jax.random.split(jax.random.PRNGKey(0), 400)
    drawn = jax.vmap(lambda key: draw_coefficients(key, *args))(keys)
    sites = {k: np.broadcast_to(v, (1, 400, *np.shape(v))) for k, v in args[0].items()}
    found = named_quantities(prepared, sites | {k: np.asarray(v)[None] for k, v in drawn.items()})
    return np.quantile(found["trend"][0, :, 0, 0, 0], (0.05, 0.95)), found


def test_a_trend_is_found_inside_one_survey_as_often_as_it_should():
    """No star is seen twice. 40 skies with one set of stars: binomial(40, 0.9) is below 30 once in 800."""
    recipe = parse_recipe(TABLE)
    pattern = simulate(recipe, seed=0).catalogue
    skies = [simulate(recipe, seed=seed, data=pattern) for seed in range(1, 41)]
    ready = [prepare(recipe, sky.catalogue) for sky in skies]
    truth = np.array([float(sky.truth["trend"].squeeze()) for sky in skies])
    data = [np.stack([each.y[0] for each in ready])]
    settings = {"warmup": 200, "draws": 300, "thin": 1, "seed_number": 1, "complete": draw_coefficients}
    with jax.numpy_rank_promotion("allow"):  # NUTS itself adds vectors to matrices
        sites = posteriors(crosscal, (ready[0].design,), data, **settings)
    trend = named_quantities(ready[0], sites)["trend"][..., 0, 0, 0]  # the skies in the place of chains
    low, high = np.quantile(trend, (0.05, 0.95), axis=1)
    assert ((low <= truth) & (truth <= high)).sum() >= 30
    assert (high - low).max() < 2 * 1.645 * SD / 3
    assert np.corrcoef(trend.mean(1), truth)[0, 1] > 0.9


def test_shuffled_members_are_no_constraint():
    sky = simulate(parse_recipe(TABLE), seed=2)
    members, rng = sky.catalogue.members, np.random.default_rng(0)
    listed = np.flatnonzero(members.cluster >= 0)
    cluster = members.cluster.copy()
    cluster[listed] = rng.permutation(cluster[listed])
    right = at_the_mode(prepare(parse_recipe(TABLE), sky.catalogue))
    wrong = at_the_mode(prepare(parse_recipe(TABLE), replace(sky.catalogue, members=replace(members, cluster=cluster))))
    scatter = [np.hypot(np.nanmax(f["floor"]), np.nanmax(f["cluster_spread"])) for _, f in (right, wrong)]
    assert scatter[1] > 2.0 * scatter[0]  # the spread within clusters tells
    assert np.diff(wrong[0]) > 1.5 * np.diff(right[0])  # and the trend is known less well


def test_wrong_members_are_suspected_and_do_not_move_the_trend():
    recipe = parse_recipe(table("crosscal_robust", n_star=200, membership_low={"open": 0.8}))
    sky = simulate(recipe, seed=4)
    prepared = prepare(recipe, sky.catalogue)
    problem = pose(prepared)
    assert problem.converged
    sites = {name: np.asarray(v)[None, None] for name, v in problem.task.start.items()}
    _, wrong = suspects(prepared, outlier_probability(prepared, sites))["not_member_probability"]
    members = prepared.catalogue.members
    at = np.flatnonzero(members.cluster >= 0)
    mean = sky.truth["cluster_mean"].to_numpy()[0, 0, members.cluster[at], 0]
    far = np.abs(sky.z[at, 0] - mean) > 0.3
    assert 3 <= far.sum() < 0.2 * len(at)
    assert np.median(wrong[at][far]) > 0.5 > 10 * np.median(wrong[at][~far])
    assert np.isnan(wrong[members.cluster < 0]).all()
    trend = float(named_quantities(prepared, sites)["trend"].squeeze())
    assert trend == pytest.approx(float(sky.truth["trend"].squeeze()), abs=0.03)


def test_improbable_members_are_left_out_and_counted():
    recipe = parse_recipe(table(membership_low={"open": 0.2}))
    sky = simulate(recipe, seed=1)
    low = int((sky.catalogue.members.probability < 0.5).sum())
    assert low == 0  # simulate takes what the fit would take
    members = sky.catalogue.members
    doubted = replace(members, probability=np.where(np.arange(100) < 40, 0.3, members.probability))
    prepared = prepare(recipe, replace(sky.catalogue, members=doubted))
    reason = "open member(s) less probable than 0.5"
    assert prepared.catalogue.left_out[reason] > sky.catalogue.left_out[reason]
    assert (prepared.catalogue.members.cluster[:40] == -1).all()


def test_a_cluster_ties_surveys_that_share_no_star():
    two = table(n_star=200, seen={"s1": 1.0, "s2": 1.0})
    two["surveys"]["s2"] = {}
    recipe = parse_recipe(two)
    sky = simulate(recipe, seed=1)
    cat = sky.catalogue
    apart = cat.select((cat.star % 2 == 0) == (cat.survey == 0))
    prepared = prepare(recipe, apart)
    _, found = at_the_mode(prepared)
    difference = found["offset"][0, :, 1, 0] - found["offset"][0, :, 0, 0]
    truth = sky.truth["offset"].squeeze()
    assert difference.mean() == pytest.approx(float(truth[1] - truth[0]), abs=4 * difference.std())
    assert difference.std() < 0.03
    even = np.arange(cat.n_star) % 2 == 0
    no_common = np.where(even, cat.members.cluster == 0, cat.members.cluster > 0)
    with pytest.raises(HbcalError, match="share no star, no cluster and no anchor"):
        prepare(recipe, replace(apart, members=cat.members.without(~no_common)))


def test_a_run_keeps_its_clusters(tiny_cluster_run):
    run = tiny_cluster_run
    assert run.posterior["cluster_mean"].dims == ("chain", "draw", "cluster", "label")
    assert run.posterior["cluster_spread"].dims == ("chain", "draw", "kind", "label")
    assert list(run.posterior["survey"].values) == ["s1"]
    assert (run.path / "clusters.png").exists()
    again = prepare(run.recipe, run.catalogue)
    assert again.catalogue.members.names == ("open0", "open1", "open2")
    summary = (run.path / "summary.ecsv").read_text()
    assert re.search(r"cluster_mean \S+ fe_h open1 dex", summary)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("clusters") / "sky"
    simulate(parse_recipe(TABLE), out, seed=1)
    return out


def put(column, rows, value):
    def change(frame):
        frame[column] = frame[column].astype(object)
        frame.loc[frame.index[frame["cluster"] != ""][rows], column] = value
        return frame

    return change


CASES = {
    "probability above one": (put("p", [0, 1], 2.0), "'p' of c.csv has 2 membership", "outside 0 to 1, first 2 in row"),
    "probability below zero": (put("p", [0], -0.5), "1 membership probabilities outside 0 to 1, first -0.5"),
    "no probability": (put("p", [3], ""), "1 membership probabilities missing", "filter them"),
    "two clusters": (lambda t: pd.concat([t, t[t.cluster == "open0"].head(2).assign(cluster="open1")]),
        "2 star(s) in more than one cluster", "'open0', 'open1'", "give each star one"),
    "rows twice": (lambda t: pd.concat([t, t[t.cluster != ""].head(3)]), "lists 3 star(s) in more than one row",
        "visits = true"),
    "no star measured": (lambda t: t.assign(star="x" + t.star), "no survey measured any", "same star ids"),
    "no star id": (put("star", [0], ""), "1 cluster member(s) without a star id"),
    "missing column": (lambda t: t.drop(columns="cluster"), "c.csv lacks 1 column(s)", "'cluster'"),
    "named like a survey": (lambda t: t.replace({"open0": "s1"}), "named like a survey of the recipe, 's1'", "rename"),
    "no cluster named": (lambda t: t.assign(cluster=""), "c.csv names a cluster in no row"),
    "one member each": (lambda t: t.drop_duplicates("cluster"), "No cluster of c.csv has two members", "(5 have one)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_lists_are_refused_in_one_sentence(name, folder, tmp_path):
    change, *words = CASES[name]
    for file in ("m.csv", "s.csv"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    frame = pd.read_csv(folder / "c.csv", keep_default_na=False)
    change(frame).to_csv(tmp_path / "c.csv", index=False)
    recipe = parse_recipe(TABLE)
    with pytest.raises(HbcalError) as raised:
        prepare(recipe, observe(recipe, tmp_path))
    told = str(raised.value)
    assert all(word in told for word in words), told
    assert told.endswith(".")
    assert "\n" not in told


def test_one_member_among_others_is_counted(folder, tmp_path):
    for file in ("m.csv", "s.csv"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    frame = pd.read_csv(folder / "c.csv", keep_default_na=False)
    lone = frame[frame["cluster"] == "open0"].iloc[1:]
    frame.drop(lone.index).to_csv(tmp_path / "c.csv", index=False)
    prepared = prepare(parse_recipe(TABLE), observe(parse_recipe(TABLE), tmp_path))
    assert prepared.catalogue.left_out["open member(s) alone in their cluster"] == 1
    assert "open0" not in prepared.catalogue.members.names


def changed(**clusters):
    out = copy.deepcopy(TABLE)
    out["clusters"]["open"] |= clusters
    return out


@pytest.mark.parametrize(
    ("whole", "told"),
    [
        (changed(spread={"fe": 0.03}), "unknown label 'fe'"),
        (changed(spread={}), "list no label in spread"),
        (changed(spread={"fe_h": 0.0}), "The spread of 'fe_h' in clusters 'open' is 0.0"),
        (changed(least=1.5), "least = 1.5"),
        (changed(within={"rv": [1.0, 0.0]}), "within 'rv' of the clusters 'open'"),
        (changed() | {"clusters": {"s1": TABLE["clusters"]["open"]}}, "named like a survey"),
        (changed() | {"clip": 3.0}, "use crosscal_robust"),
        (changed() | {"clusters": {}}, "at least two, or one and clusters"),
        (changed() | {"simulate": {"n_cluster": {"opn": 3}}}, "unknown kind of clusters 'opn'"),
        (changed() | {"simulate": {"listed": {"open": 1.5}}}, "listed of 'open' is 1.5"),
    ],
)
def test_bad_recipes_are_refused(whole, told):
    with pytest.raises(HbcalError, match=re.escape(told)):
        parse_recipe(whole)


@pytest.mark.parametrize(("label", "unit"), [("teff", "K"), ("Teff", "dex"), ("logg", "dex"), ("log_g", "dex")])
def test_teff_and_logg_are_never_shared(label, unit):
    whole = changed(spread={label: 0.03})
    whole["labels"][label] = {"unit": unit, "offset_sd": 0.1}
    with pytest.raises(HbcalError, match=r"never Teff or log g"):
        parse_recipe(whole)


# ---- real clusters --------------------------------------------------------------------------------------------------

REAL = Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "catalogues"


def within(value, cluster):
    """Differences from the cluster's mean, freed of the mean's own loss."""
    parts = [value[cluster == g] for g in np.unique(cluster)]
    return np.concatenate([(v - v.mean()) * np.sqrt(len(v) / (len(v) - 1)) for v in parts if len(v) > 1])


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason="HBCAL_TEST_DATA has no catalogues")
def test_real_members_agree_better_where_the_fit_has_not_seen_them():
    recipe = load_recipe("clusters")
    whole = prepare(recipe, observe(recipe, REAL)).catalogue
    listed = np.flatnonzero(whole.members.cluster >= 0)
    assert len(listed) == 62
    half = np.isin(np.arange(whole.n_star), np.random.default_rng(0).permutation(listed)[:31])
    before, after = [], []
    for fitted in (half, ~half):
        prepared = prepare(recipe, replace(whole, members=whole.members.without(~fitted)))
        trend = at_the_mode(prepared)[1]["trend"][0, :, 0, 0, 0].mean()
        rows = np.flatnonzero((whole.label == 0) & (whole.members.cluster[whole.star] >= 0) & ~fitted[whole.star])
        star = whole.star[rows]
        u = (whole.x[star, 0, 0] - 4600.0) / 300.0
        before.append(within(whole.value[rows], whole.members.cluster[star]))
        after.append(within(whole.value[rows] - trend * u, whole.members.cluster[star]))
    rms = [float(np.sqrt(np.mean(np.concatenate(x) ** 2))) for x in (before, after)]
    assert rms[1] < rms[0]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="HBCAL_TEST_DATA has no catalogues")
@pytest.mark.parametrize("name", ["clusters", "globular_clusters"])
def test_real_fits_pass_the_gate(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        run = calibrate(name, REAL, tmp_path / "run", workers=0)
    assert run.passed
