"""What a run says its data can tell: checked against refits, and against defects that were planted."""

import copy
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from hbcal import calibrate, simulate
from hbcal.calibration import ConvergenceWarning
from hbcal.cli import app
from hbcal.contraction import open_combinations
from hbcal.design import prepare
from hbcal.influence import brief_mean, moved, rest_of
from hbcal.network_figure import draw_network
from hbcal.numerics.null import open_directions, varimax
from hbcal.recipe import parse_recipe
from hbcal.tree import terms_of

TABLE = {
    "name": "ties",
    "title": "",
    "labels": {"fe_h": {"unit": "dex", "offset_sd": 0.3, "floor_scale": 0.1, "range": [-20.0, 20.0]}},
    "surveys": {"a": {}, "b": {}, "c": {}, "d": {}},
    "covariates": {"x1": {}},
    "data": [{"file": "m.csv", "layout": "long"}],
    "trend": [{"covariates": ["x1"], "sd": 0.2}],
    "simulate": {
        "n_star": 300, "seen": {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, "star_low": {"x1": -1.0},
        "star_high": {"x1": 1.0}, "error_low": {"fe_h": 0.03}, "error_high": {"fe_h": 0.08},
        "values": {"floor": {f"{s}.fe_h": 0.05 for s in "abcd"}, "error_scale": {f"{s}.fe_h": 1.0 for s in "abcd"}},
    },
}  # fmt: skip
SEEN = {(0, 40): "ab", (40, 130): "ac", (130, 220): "bc", (220, 270): "bd", (270, 300): "bcd"}
LIMIT = 0.3  # posterior sd


def table(program="crosscal", anchor=""):
    out = copy.deepcopy(TABLE) | {"program": program}
    if anchor:
        out["surveys"][anchor]["anchor"] = ["fe_h"]
    return out


def network(recipe, seen, lift=0.0):
    """A simulated catalogue in which ranges of stars are seen by given surveys; c's values are wrong where a looked."""
    cat = simulate(recipe, seed=4).catalogue
    keep = np.zeros(len(cat.value), bool)
    for (low, high), who in seen.items():
        there = np.isin(cat.survey, [cat.surveys.index(s) for s in who])
        keep |= (cat.star >= low) & (cat.star < high) & there
    wrong = (cat.survey == cat.surveys.index("c")) & (cat.star >= 40) & (cat.star < 130)
    return replace(cat, value=cat.value + lift * wrong).select(keep)


def fit(recipe, catalogue, out, draws=500):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few draws: the means are all that is used
        return calibrate(recipe, catalogue, out, workers=0, chains=2, warmup=300, draws=draws)


def relative(run, left):
    """Draws of the zero points less their mean over the surveys left, (n_draw, n_survey)."""
    offset = run.posterior["offset"].sel(survey=left, label="fe_h").stack(sample=("chain", "draw"))
    offset = offset.transpose("sample", "survey").to_numpy()
    return offset - offset.mean(axis=1, keepdims=True)


def refits(program, drop, home):
    """A network in which c is wrong at a's stars, its report, and how far zero points move in fits of the rest."""
    recipe = parse_recipe(table(program))
    cat = network(recipe, SEEN, lift=0.08)
    run = fit(recipe, cat, home / "whole")
    actual = {}
    for survey in drop:
        left = [s for s in cat.surveys if s != survey]
        rest = fit(recipe, cat.select(cat.survey != cat.surveys.index(survey)), home / survey)
        before, after = relative(run, left), relative(rest, left)
        actual[survey] = dict(zip(left, (after.mean(0) - before.mean(0)) / before.std(0), strict=True))
    return SimpleNamespace(run=run, report=run.identifiability(), actual=actual)


def worst(found, actual):
    """Largest disagreement of a report with refits, posterior sd."""
    each = found["moved"].sel(label="fe_h", term="offset")
    return max(abs(float(each.sel(dropped=d, survey=s)) - m) for d, moves in actual.items() for s, m in moves.items())


@pytest.fixture(autouse=True, scope="module")
def _sample_each_rest_once():
    """The same rest is looked at by several tests."""
    known = {}

    def remembered(prepared):
        key = repr(prepared.recipe), prepared.catalogue.digest()
        if key not in known:
            known[key] = brief_mean(prepared)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hbcal.influence.brief_mean", remembered)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return refits("crosscal", "cd", tmp_path_factory.mktemp("plain"))


def test_influence_agrees_with_refits(plain):
    assert worst(plain.report.influence, plain.actual) < LIMIT


@pytest.mark.slow
def test_influence_agrees_with_refits_where_outliers_are_summed_over(tmp_path):
    found = refits("crosscal_robust", "abcd", tmp_path)
    assert worst(found.report.influence, found.actual) < LIMIT


def test_the_comparison_sees_a_missing_regauging_and_an_influence_of_nothing(plain, monkeypatch):
    prepared = prepare(plain.run.recipe, plain.run.catalogue)
    nothing = plain.report.influence.copy()
    nothing["moved"] = xr.zeros_like(nothing["moved"])
    assert worst(nothing, plain.actual) > LIMIT
    monkeypatch.setattr("hbcal.influence.regauge", lambda values, who, tied: values)
    assert worst(moved(prepared, terms_of(plain.run.posterior)), plain.actual) > LIMIT


def test_a_source_with_wrong_values_is_the_influential_one(plain):
    each = np.abs(plain.report.influence["moved"].sel(label="fe_h", term="offset")).max("survey")
    assert str(each["dropped"].values[int(each.to_numpy().argmax())]) == "c"
    assert float(each.sel(dropped="c")) > 1.0


def test_ties_are_worth_what_their_stars_say(plain):
    tie = plain.report.network.sel(label="fe_h")
    assert int(tie["n_star"].sel(survey="a", other="b")) == 40
    assert int(tie["n_star"].sel(survey="c", other="d")) == 30
    assert float(tie["tie_sd"].sel(survey="a", other="b")) == pytest.approx(np.sqrt(2 * 0.074**2 / 40), rel=0.25)
    assert np.isnan(tie["tie_sd"].sel(survey="a", other="a"))
    np.testing.assert_allclose(tie["mean"], -tie["mean"].T, atol=1e-12)
    offset = plain.run.posterior["offset"].sel(label="fe_h")
    difference = offset.sel(survey="a") - offset.sel(survey="d")
    assert float(tie["q95"].sel(survey="a", other="d")) == pytest.approx(float(np.quantile(difference, 0.95)))


def test_the_report_reads_and_draws(plain, tmp_path):
    text = plain.report.text()
    assert "fe_h [dex]: relative scale" in text
    assert "a - b: " in text
    assert "40 stars in common, worth 0.0" in text
    assert "without c: a " in text
    draw_network(plain.report, tmp_path / "network.png")
    assert (tmp_path / "network.png").stat().st_size > 20_000


def test_what_would_hang_in_the_air_gets_a_reason_and_no_number():
    anchored = parse_recipe(table(anchor="a"))
    rest = rest_of(prepare(anchored, network(anchored, SEEN)), "a")
    assert rest.prepared is None
    assert "a is the only anchor of fe_h: without it the scale hangs in the air" in rest.reasons["fe_h"]
    loose = parse_recipe(table())
    prepared = prepare(loose, network(loose, {(0, 100): "ab", (100, 200): "bc", (200, 300): "cd"}))
    rest = rest_of(prepared, "b")
    assert rest.prepared is None
    assert "without b the scale hangs in the air" in rest.reasons["fe_h"]
    assert "{a} and {c, d}" in rest.reasons["fe_h"]
    assert rest_of(prepared, "a").prepared is not None
    draws = xr.DataArray(
        np.random.default_rng(0).normal(size=(9, 4, 1, 2)), dims=("sample", "survey", "label", "term"),
        coords={"survey": list("abcd"), "label": ["fe_h"], "term": ["offset", "x1"]},
    )  # fmt: skip
    found = moved(prepared, draws)
    assert np.isnan(found["moved"].sel(dropped="b")).all()
    assert found["reason"].sel(dropped="a", label="fe_h").item() == ""


def test_a_dependent_survey_has_no_influence(tiny_network):
    prepared, posterior = tiny_network
    found = moved(prepared, terms_of(posterior))
    assert float(np.abs(found["moved"].sel(dropped="compiled")).max()) == 0.0
    assert "depends on others and has no say" in found["reason"].sel(dropped="compiled", label="fe_h").item()


def test_a_trend_without_spread_in_the_overlap_is_named(tmp_path):
    """Stars of the anchor a all lie at x1 = 0; those that b and c share do not: only the difference is known."""
    recipe = parse_recipe(table(anchor="a") | {"clip": 6.0})
    cat = network(recipe, {(0, 60): "ab", (60, 120): "ac", (120, 220): "bc"})
    x = np.where((np.arange(cat.n_star) < 120)[:, None, None], 0.0, cat.x)
    far = np.flatnonzero(cat.survey == 1)[0]
    value = cat.value + np.where(np.arange(len(cat.value)) == far, 5.0, 0.0)
    run = fit(recipe, replace(cat, x=x, value=value), tmp_path / "run", draws=250)
    assert len(run.catalogue.value) == len(value) - 1  # clipped, but kept: without another source it might stay
    np.testing.assert_array_equal(np.sort(run.unclipped.value), np.sort(value))
    found = open_combinations(prepare(recipe, run.catalogue), run.posterior)
    assert [each.words.split(" by ")[0] for each in found] == ["the fe_h trends with x1 of b and c can rise together"]
    assert found[0].ratio == pytest.approx(1.0, abs=0.2)
    known = run.identifiability().contraction["contraction"].sel(label="fe_h", term="offset")
    assert float(known.min()) > 0.95
    assert np.isnan(known.sel(survey="a"))


def test_directions_are_open_and_turned_to_axes():
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    cov = (basis * np.array([1.0, 1.0, 0.9, 0.1, 0.01, 0.01])) @ basis.T
    found = open_directions(cov, 0.5)
    assert found.shape == (6, 3)
    np.testing.assert_allclose(found @ found.T, basis[:, :3] @ basis[:, :3].T, atol=1e-9)
    turned = varimax(basis[:3].T @ basis[:3] @ np.eye(6)[:, :0])
    assert turned.shape == (6, 0)
    sparse = np.eye(6)[:, :3]
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    np.testing.assert_allclose(np.sort(np.abs(varimax(sparse @ turn)).max(axis=0)), 1.0, atol=1e-6)


def test_the_command_writes_text_and_figure(tiny_run, tmp_path):
    run = CliRunner().invoke(app, ["report", str(tiny_run.path), "--out", str(tmp_path / "report")])
    assert run.exit_code == 0, run.output
    assert "fe_h [dex]: anchored on s0" in run.output
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["network.png", "report.txt"]


def test_a_source_that_is_not_there_is_one_sentence(tiny_run):
    told = CliRunner().invoke(app, ["report", str(tiny_run.path), "--drop", "s3"])
    assert told.exit_code != 0
    assert "The run has no source 's3'" in str(told.exception)


def test_without_a_survey_clusters_still_tie_the_others():
    tables = table()
    tables["surveys"].pop("d")
    tables["clusters"] = {"open": {"file": "c.csv", "spread": {"fe_h": 0.03}}}
    tables["simulate"] |= {"seen": {"a": 1.0, "b": 1.0, "c": 1.0}, "values": {}, "n_cluster": {"open": 3}}
    recipe = parse_recipe(tables)
    cat = simulate(recipe, seed=4).catalogue
    name = {s: cat.surveys.index(s) for s in cat.surveys}
    half = cat.star % 2 == 0  # a and b share no star, c saw them all
    cat = cat.select(
        (cat.survey == name["c"]) | (half & (cat.survey == name["a"])) | (~half & (cat.survey == name["b"]))
    )
    rest = rest_of(prepare(recipe, cat), "c")
    assert rest.reasons == {}
    assert rest.prepared.means["fe_h"].shape[0] == 3


def test_influence_where_trends_are_in_true_labels(tiny_structural):
    assert "only anchor of fe_h" in rest_of(tiny_structural, "reference").reasons["fe_h"]
    rest = rest_of(tiny_structural, "infrared")
    assert rest.reasons == {}
    offset = brief_mean(rest.prepared)["mean"].sel(survey="optical", term="offset")
    assert np.isfinite(offset).all()
