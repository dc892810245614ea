"""Correlated labels, end to end: covariance blocks in, correlations fitted where asked, blocks out."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpyro.handlers import seed, substitute, trace
from scipy import stats

from hbcal import HbcalError, calibrate, simulate
from hbcal.catalogue.observe import observe
from hbcal.correlated import correlated
from hbcal.design import prepare
from hbcal.evaluation import evaluate
from hbcal.programs.crosscal import crosscal
from hbcal.programs.crosscal_correlated import crosscal_correlated, draw_coefficients
from hbcal.recipe import parse_recipe
from hbcal.run import write_applied

LABELS = ("teff", "fe_h", "mg_h")
WIDE = {
    "name": "wide",
    "title": "an anchor of one label, two surveys whose errors are correlated: one says how, of the other it is fitted",
    "program": "crosscal_correlated",
    "labels": {
        "teff": {"unit": "K", "offset_sd": 80.0, "floor_scale": 40.0},
        "fe_h": {"unit": "dex", "offset_sd": 0.2, "floor_scale": 0.08},
        "mg_h": {"unit": "dex", "offset_sd": 0.2, "floor_scale": 0.08},
    },
    "surveys": {"ref": {"anchor": ["teff"]}, "a": {}, "b": {"correlated": ["fe_h", "teff"]}},
    "covariates": {"colour": {}},
    "trend": [{"labels": ["teff"], "covariates": ["colour"], "sd": 30.0}],
    "data": [
        {
            "file": f"{survey}.csv", "layout": "wide",
            "measurements": [
                {"survey": survey, "label": l, "value": l.upper(), "error": f"E_{l.upper()}"} for l in LABELS
            ],
            "covariates": {"colour": {"column": "COLOUR"}},
        } for survey in ("ref", "a", "b")
    ],
    "simulate": {
        "n_star": 200, "seen": {"ref": 0.7, "a": 0.8, "b": 0.8},
        "error_low": {"teff": 30.0, "fe_h": 0.03, "mg_h": 0.03}, "error_high": {"teff": 60.0, "fe_h": 0.1},
        "correlation": {"a.teff.fe_h": 0.8, "a.fe_h.mg_h": -0.3},
    },
}  # fmt: skip
WIDE["data"][1]["correlations"] = [
    {"survey": "a", "labels": ["teff", "fe_h"], "column": "COV", "kind": "covariance"},
    {"survey": "a", "labels": ["mg_h", "fe_h"], "column": "RHO"},
]


def changed(*edits):
    """The recipe's tables, edited."""
    table = copy.deepcopy(WIDE)
    for edit in edits:
        edit(table)
    return table


def alone(table):
    """Nothing correlated."""
    table["surveys"]["b"] = {}
    table["data"][1].pop("correlations", None)
    table["simulate"].pop("correlation", None)


@pytest.fixture(scope="module")
def sky():
    small = {"floor": {"a.teff": 10.0, "a.fe_h": 0.01, "a.mg_h": 0.01}}  # else most of a's noise is not correlated
    return simulate(parse_recipe(WIDE), seed=2, values=small)


@pytest.fixture(scope="module")
def run(sky, tmp_path_factory):
    home = tmp_path_factory.mktemp("correlated")
    settings = {"chains": 4, "warmup": 300, "draws": 500, "workers": 0}
    return calibrate(parse_recipe(WIDE), sky.catalogue, home / "run", **settings)


def test_the_files_hold_what_was_simulated(sky, tmp_path):
    recipe = parse_recipe(WIDE)
    simulate(recipe, tmp_path / "sky", seed=2, values={"floor": {"a.teff": 10.0, "a.fe_h": 0.01, "a.mg_h": 0.01}})
    read = observe(recipe, tmp_path / "sky")
    order = lambda c: np.lexsort((c.label, c.survey, c.stars[c.star].astype(str)))  # noqa: E731
    mine, its = order(sky.catalogue), order(read)
    np.testing.assert_allclose(read.correlation[its], sky.catalogue.correlation[mine], rtol=1e-9)
    assert set(read.visit) == {0}
    known = read.correlation[(read.survey == 1) & (read.label == 1)]
    np.testing.assert_allclose(known[:, [0, 2]], [[0.8, -0.3]] * len(known), rtol=1e-9)


def test_visits_are_rows_of_a_wide_table_and_the_order_of_a_long_one(tmp_path):
    def tables(table):
        alone(table)
        table["data"] = [table["data"][1] | {"visits": True}, {"file": "long.csv", "layout": "long"}]
        table["covariates"], table["trend"] = {}, []
        table["data"][0].pop("covariates")

    wide = {"star": ["x", "x", "y"], "TEFF": [5000.0, 5010.0, 6000.0], "FE_H": ["", 0.1, 0.2], "MG_H": [0.1, 0.3, 0.2]}
    frame = pd.DataFrame(wide).assign(E_TEFF=50.0, E_FE_H=0.05, E_MG_H=0.05)
    frame.to_csv(tmp_path / "a.csv", index=False)
    rows = [("x", "b", "fe_h", 0.0), ("x", "b", "mg_h", 0.1), ("x", "b", "fe_h", 0.2), ("y", "b", "mg_h", 0.3)]
    pd.DataFrame(rows, columns=["star", "survey", "label", "value"]).to_csv(tmp_path / "long.csv", index=False)
    cat = observe(parse_recipe(changed(tables)), tmp_path)
    found = {
        (str(cat.stars[i]), cat.surveys[s], cat.labels[l], v): int(n)
        for i, s, l, v, n in zip(cat.star, cat.survey, cat.label, cat.value.tolist(), cat.visit, strict=True)
    }
    assert found["x", "a", "teff", 5010.0] == found["x", "a", "fe_h", 0.1] == found["x", "a", "mg_h", 0.3] == 1
    assert found["x", "a", "teff", 5000.0] == found["x", "a", "mg_h", 0.1] == found["y", "a", "fe_h", 0.2] == 0
    assert found["x", "b", "fe_h", 0.0] == found["x", "b", "mg_h", 0.1] == 0
    assert found["x", "b", "fe_h", 0.2] == 1


def log_density_of(program, args, sites):
    every = trace(substitute(seed(program, 0), sites)).get_trace(*args)
    return sum(float(s["fn"].log_prob(s["value"]).sum()) for n, s in every.items() if n.startswith("y_"))


def test_without_correlations_it_is_crosscal(sky):
    """Two visits, missing labels, an anchor of one label: the same density, and the same coefficients."""
    cat = sky.catalogue
    twice = np.flatnonzero((cat.survey == 2) & (cat.star < 30))
    both = lambda name, shift=0: np.append(getattr(cat, name), getattr(cat, name)[twice] + shift)  # noqa: E731
    cat = replace(
        cat, correlation=None, visit=np.append(cat.visit, np.ones(len(twice), int)), star=both("star"),
        survey=both("survey"), label=both("label"), value=both("value", 0.03), error=both("error"),
    ).select(np.random.default_rng(0).random(len(cat.value) + len(twice)) < 0.9)  # fmt: skip
    prepared = prepare(parse_recipe(changed(alone)), cat)
    posed, rng = correlated(prepared), np.random.default_rng(1)
    noise = {"error_scale": rng.uniform(0.5, 2.0, len(prepared.error_scales))}
    noise["floor"] = np.asarray(prepared.design.floor_unit) * rng.uniform(0.3, 1.0, len(prepared.floors))
    one = log_density_of(crosscal, (prepared.design, prepared.y), noise)
    assert log_density_of(crosscal_correlated, (posed.design, posed.y), noise) == pytest.approx(one, rel=1e-11)
    assert any(n > 1 for group in posed.design.groups for n in [group.seen.shape[1] - 2])  # a second visit of b
    from hbcal.programs.crosscal import draw_coefficients as label_by_label

    drawn = [
        draw(jax.random.PRNGKey(0), noise, design, y, white=0.0)
        for draw, design, y in (
            (draw_coefficients, posed.design, posed.y),
            (label_by_label, prepared.design, prepared.y),
        )
    ]
    for name, values in drawn[1].items():
        np.testing.assert_allclose(drawn[0][name], values, rtol=1e-8)


def test_covariance_by_hand(sky):
    posed = correlated(prepare(parse_recipe(WIDE), sky.catalogue))
    group = max(posed.design.groups, key=lambda g: g.seen.shape[1])
    scale, floor = (
        jnp.linspace(0.8, 1.4, posed.design.common.n_error),
        jnp.linspace(0.01, 0.09, len(posed.design.common.floor_unit)),
    )
    mine = jnp.array([[1.0, 0.4, 0.0], [0.4, 1.0, 0.0], [0.0, 0.0, 1.0]])
    gamma = jnp.zeros((len(floor), group.psi.shape[3]))
    cov = np.asarray(group.covariance(scale, floor, gamma, (mine,)))
    value = lambda x, k: float(x[k]) if k >= 0 else None  # noqa: E731
    told = np.eye(3)
    told[0, 1] = told[1, 0] = 0.8
    told[1, 2] = told[2, 1] = -0.3
    for v, survey in enumerate(group.corr_of):  # a's errors as given, its floor without; b's both as fitted
        i = np.flatnonzero(group.seen[:, v].all(1))[0]
        given = bool(group.given[i, v])
        assert given == (v == 1)  # of ref, a and b
        r_error, r_floor = (told, np.eye(3)) if given else (mine, mine) if survey == 0 else (np.eye(3), np.eye(3))
        for l in range(3):
            for m in range(3):
                a = [(value(scale, group.scale_of[v][k]) or 1.0) * group.err[i, v, k] for k in (l, m)]
                t = [value(floor, group.floor_of[v][k]) or 0.0 for k in (l, m)]
                expected = float(a[0] * a[1] * r_error[l, m] + t[0] * t[1] * r_floor[l, m])
                assert cov[i, v, l, m] == pytest.approx(expected, rel=1e-12)


def test_the_run_knows_the_fitted_correlation(run, sky):
    assert run.passed
    corr = run.posterior["correlation"]
    assert np.isfinite(corr.sel(survey="b", label="teff", label_2="fe_h")).all()
    assert np.isnan(corr.sel(survey="a")).all()
    truth = sky.truth["correlation"].sel(survey="b", label="teff", label_2="fe_h").item()
    low, high = np.quantile(corr.sel(survey="b", label="teff", label_2="fe_h"), [0.005, 0.995])
    assert low < truth < high
    np.testing.assert_array_equal(run.catalogue.correlation, sky.catalogue.correlation)
    assert "correlation" in (run.path / "summary.ecsv").read_text()


def target_file(sky, survey, path, correlation):
    cat, s = sky.catalogue, sky.catalogue.surveys.index(survey)
    here = cat.survey == s
    frame = pd.DataFrame(
        {"star": cat.stars[cat.star[here]], "l": cat.label[here], "v": cat.value[here], "e": cat.error[here]}
    )
    wide = frame.pivot_table(index="star", columns="l", values=["v", "e"]).dropna()
    out = pd.DataFrame({"star": wide.index})
    for l, label in enumerate(cat.labels):
        out[label], out[f"{label}_err"] = wide["v", l].to_numpy(), wide["e", l].to_numpy()
    for name, value in correlation.items():
        out[name] = value
    out.to_csv(path, index=False)
    return out


def scatter(value, covariance, z, sign):
    """Of the sum or difference of two labels, each in units of its sd, against what the covariance says of it."""
    sd = np.sqrt(np.einsum("ill->il", covariance))
    weight = np.stack([1.0 / sd[:, 0], sign / sd[:, 1]], axis=1)
    away = (weight * (value - z)[:, :2]).sum(1)
    return (away / np.sqrt(np.einsum("il,ilm,im->i", weight, covariance[:, :2, :2], weight))).std()


def test_blocks_out_are_true(run, sky, tmp_path):
    """Of Teff and [Fe/H], whose errors go together, sum and difference scatter as the covariance says; its diagonal
    is wrong about both."""
    table = target_file(sky, "a", tmp_path / "a.csv", {"teff_fe_h_corr": 0.8, "fe_h_mg_h_corr": -0.3})
    applied = run.apply(tmp_path / "a.csv", "a")
    z = sky.z[[list(sky.catalogue.stars).index(name) for name in table["star"]]]
    bare = np.einsum("ilm,lm->ilm", applied.covariance, np.eye(3))
    far = stats.norm.isf(5e-4) / np.sqrt(2 * len(z))  # false alarm 1 in 1,000
    for sign, wrong in ((1, 1.0 + far), (-1, 1.0 - far)):
        assert abs(scatter(applied.value, applied.covariance, z, sign) - 1.0) < far
        assert (scatter(applied.value, bare, z, sign) - wrong) * sign > 0
    diagonal = np.sqrt(np.einsum("ill->il", applied.covariance))
    np.testing.assert_allclose(diagonal, np.stack([applied.columns[f"{l}_err"] for l in LABELS], axis=1), rtol=1e-12)


def test_a_fitted_correlation_goes_out_too(run, sky, tmp_path):
    target_file(sky, "b", tmp_path / "b.csv", {})
    applied = run.apply(tmp_path / "b.csv", "b")
    noise = np.median(
        applied.covariance[:, 0, 1] / np.prod([applied.columns[f"{l}_err_star"] for l in LABELS[:2]], axis=0)
    )
    fitted = float(run.posterior["correlation"].sel(survey="b", label="teff", label_2="fe_h").mean())
    assert noise == pytest.approx(fitted, abs=0.1)


def test_what_apply_writes_can_be_evaluated(run, sky, tmp_path):
    target_file(sky, "a", tmp_path / "a.csv", {})
    applied = run.apply(tmp_path / "a.csv", "a")
    write_applied(applied, tmp_path / "a.nc")
    truth = pd.DataFrame({"star": applied.star, "teff": applied.value[:, list(applied.labels).index("teff")]})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    told = evaluate(tmp_path / "a.nc", tmp_path / "truth.csv", tmp_path / "report")
    assert told["n_flagged"] == 0
    assert told["trusted"]["teff"]["rms"] < 1e-6


def test_what_apply_writes_can_be_calibrated(run, sky, tmp_path):
    target_file(sky, "a", tmp_path / "a.csv", {"teff_fe_h_corr": 0.8, "fe_h_mg_h_corr": -0.3})
    applied = run.apply(tmp_path / "a.csv", "a")
    write_applied(applied, tmp_path / "a.nc")

    def schema(table):
        table["data"][1] = {"file": "a.nc", "layout": "labels", "survey": "a"}
        table["simulate"].pop("correlation")
        table["covariates"], table["trend"] = {}, []
        for entry in table["data"]:
            entry.pop("covariates", None)

    for survey in ("ref", "b"):
        frame = target_file(sky, survey, tmp_path / "own.csv", {})
        frame.columns = [
            c if c == "star" else f"E_{c[:-4].upper()}" if c.endswith("_err") else c.upper() for c in frame
        ]
        frame.to_csv(tmp_path / f"{survey}.csv", index=False)
    recipe = parse_recipe(changed(schema))
    cat = observe(recipe, tmp_path)
    here = (cat.survey == 1) & (cat.label == 0)
    at = [list(applied.star).index(name) for name in cat.stars[cat.star[here]]]
    sd = np.sqrt(np.einsum("ill->il", applied.covariance))
    np.testing.assert_allclose(cat.value[here], applied.value[at, 0], rtol=1e-12)
    np.testing.assert_allclose(cat.error[here], sd[at, 0], rtol=1e-12)
    expected = applied.covariance[at, 0, 1] / (sd[at, 0] * sd[at, 1])
    np.testing.assert_allclose(cat.correlation[here, 1], expected, rtol=1e-9)
    assert prepare(recipe, cat).overlap.fitted == LABELS
    assert xr.load_dataset(tmp_path / "a.nc").attrs["units"] == "K, dex, dex"
    again = run.apply(tmp_path / "a.nc", "a")  # a table like any other
    bare = observe(parse_recipe(changed(schema, lambda t: (alone(t), t.update(program="crosscal")))), tmp_path)
    (said,) = [reason for reason in bare.left_out if "one by one" in reason]
    assert bare.correlation is None
    assert bare.left_out[said] == 3 * len(applied.star)
    assert again.covariance.shape == (len(applied.star), 3, 3)


BAD = {
    "one label": (lambda t: t["surveys"]["b"].update(correlated=["teff"]), "name at least two labels, each once"),
    "twice": (lambda t: t["surveys"]["b"].update(correlated=["teff", "teff"]), "name at least two labels, each once"),
    "unknown": (lambda t: t["surveys"]["b"].update(correlated=["teff", "fe"]), "did you mean 'fe_h'"),
    "program": (lambda t: t.update(program="crosscal"), "'b' list labels in correlated, but crosscal takes"),
    "dependent": (lambda t: t["surveys"]["b"].update(depends_on=["a"]), "'b' lists labels in correlated and depends"),
    "clusters": (lambda t: t.update(clusters={"o": {"file": "m", "spread": {"fe_h": 0.1}}}), "has clusters"),
    "column": (lambda t: t["data"][1]["correlations"][0].update(labels=["teff", "teff"]), "name two labels that"),
    "pair twice": (lambda t: t["data"][1]["correlations"].append(t["data"][1]["correlations"][1]), "twice: keep one"),
    "no survey": (lambda t: t["data"].append({"file": "x.nc", "layout": "labels"}), "names no survey"),
    "a survey": (lambda t: t["data"][0].update(survey="ref"), "only layout labels has one"),
    "simulated": (lambda t: t["simulate"].update(correlation={"b.teff.fe_h": 0.1}), "that the recipe reads"),
    "too large": (lambda t: t["simulate"].update(correlation={"a.teff.fe_h": 1.0}), "is 1.0: give a number"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_recipes_that_are_refused(what):
    edit, told = BAD[what]
    with pytest.raises(HbcalError, match=told) as error:
        parse_recipe(changed(edit))
    assert str(error.value).count("\n") == 0


IMPOSSIBLE = {"TEFF": 5000.0, "FE_H": 0.0, "MG_H": 0.1, "E_TEFF": 10.0, "E_FE_H": 0.1, "E_MG_H": 0.1}
IMPOSSIBLE |= {"COV": 0.9, "RHO": -0.9}  # Teff goes with [Fe/H], that against [Mg/H], and [Mg/H] not against Teff


def broken(tmp_path, **columns):
    recipe = parse_recipe(WIDE)
    simulate(recipe, tmp_path / "sky", seed=2)
    table = pd.read_csv(tmp_path / "sky" / "a.csv")
    for name, value in columns.items():
        table.loc[3, name] = value
    table.to_csv(tmp_path / "sky" / "a.csv", index=False)
    return recipe, tmp_path / "sky"


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"RHO": 1.5}, r"a.csv has 1 correlation\(s\) of mg_h and fe_h of survey 'a' in column 'RHO'.* row 4"),
        ({"RHO": np.inf}, r"a.csv has 1 correlation\(s\) of mg_h and fe_h of survey 'a' in column 'RHO'.* row 4"),
        ({"COV": 1e9}, r"a.csv has 1 covariance\(s\) of teff and fe_h of survey 'a' in column 'COV'.* row 4"),
        (
            IMPOSSIBLE,
            r"correlations of 1 row\(s\) go together in no covariance matrix",
        ),
    ],
)  # fmt: skip
def test_correlations_that_cannot_be(tmp_path, columns, told):
    recipe, folder = broken(tmp_path, **columns)
    with pytest.raises(HbcalError, match=told):
        observe(recipe, folder)


def test_labels_that_no_row_has_together(sky):
    cat = sky.catalogue
    b = cat.survey == cat.surveys.index("b")
    apart = cat.select(~b | np.where(cat.star % 2 == 0, cat.label == 0, cat.label == 1))
    with pytest.raises(HbcalError, match="correlation of 'fe_h', 'teff' of survey 'b', but no row"):
        prepare(parse_recipe(WIDE), apart)
    with pytest.raises(HbcalError, match="correlation of 'fe_h' of survey 'b' with others, but nothing else measures"):
        prepare(parse_recipe(WIDE), cat.select(b | (cat.label == 0)))


def test_a_survey_that_is_not_there_asks_for_nothing(sky):
    cat = sky.catalogue
    prepared = prepare(parse_recipe(WIDE), cat.select(cat.survey != cat.surveys.index("b")))
    assert correlated(prepared).design.correlated == ()


def test_not_a_file_of_the_schema(tmp_path):
    lacks = xr.Dataset({"value": (("star", "label"), np.ones((1, 1)))}, {"star": ["a"], "label": ["fe_h"]})
    lacks.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    entry = {"file": "x.nc", "layout": "labels", "survey": "a"}
    with pytest.raises(HbcalError, match=r"x.nc is not of the label schema: it needs value"):
        observe(parse_recipe(changed(lambda t: t["data"].insert(0, entry))), tmp_path)
