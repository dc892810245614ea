"""`crosscal`: what must not change its log density, and an independent twin in PyMC that must have the same one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from numpyro.handlers import seed, trace
from numpyro.infer.util import log_density as log_density_at
from numpyro.infer.util import potential_energy, unconstrain_fn
from scipy import linalg, stats

from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.observe import observe
from hbcal.design import named_quantities, prepare
from hbcal.programs.crosscal import Priors, crosscal, draw_coefficients
from hbcal.recipe import parse_recipe

# everything the program can do: an anchor for one label, the zero-sum gauge for the other, trends in a property of the
# star and in one of the measurement, per category, learnt and fixed prior sds, a floor with a covariate and a category
EVERYTHING = {
    "name": "everything",
    "title": "",
    "labels": {
        "teff": {"unit": "K", "offset_scale": 80.0, "floor_scale": 40.0},
        "fe_h": {"unit": "dex", "offset_sd": 0.2, "floor_scale": 0.08},
    },
    "surveys": {"ref": {"anchor": ["fe_h"]}, "a": {}, "b": {}},
    "covariates": {
        "colour": {"centre": 0.5, "scale": 2.0},
        "kind": {"levels": ["dwarf", "giant"]},
        "snr": {"centre": 50.0, "scale": 50.0},
    },
    "data": [{"file": "m.csv", "layout": "long"}],
    "trend": [
        {"labels": ["fe_h"], "covariates": ["colour"], "degree": 2, "per": "kind", "sd": 0.1},
        {"labels": ["teff"], "covariates": ["colour"], "scale": 40.0},
        {"labels": ["teff"], "covariates": ["snr"], "sd": 15.0},
    ],
    "floor": [{"labels": ["fe_h"], "surveys": ["a"], "covariates": ["colour"], "per": "kind"}],
    "priors": {"error_scale": 0.25, "floor_trend": 0.4},
}
# three surveys without an anchor, one of them without any error; a category alone as trend
RELATIVE = {
    "name": "relative",
    "title": "",
    "labels": {"fe_h": {"unit": "dex", "offset_scale": 0.2, "floor_scale": 0.08}},
    "surveys": {"a": {}, "b": {}, "c": {}},
    "covariates": {"kind": {"levels": ["dwarf", "giant", "hot"]}},
    "data": [{"file": "m.csv", "layout": "long"}],
    "trend": [{"per": "kind", "sd": 0.1}],
    "floor": [{"surveys": ["a", "b"], "per": "kind"}],
}
# an anchor whose own errors and floor are not taken for granted, and nothing but zero points
FREED = {
    "name": "freed",
    "title": "",
    "labels": {"fe_h": {"unit": "dex", "offset_sd": 0.3, "floor_scale": 0.08}},
    "surveys": {"ref": {"anchor": ["fe_h"], "free": ["error_scale", "floor"]}, "a": {}, "b": {}},
    "data": [{"file": "m.csv", "layout": "long"}],
}


def everything_rows(recipe, cat):
    """The model's terms by hand: (label, survey, rows' column, sd, learnt scale or None, tied over the surveys)."""
    colour, kind, snr = cat.x[:, :, 0], cat.x[:, :, 1], cat.x[:, :, 2]
    u, v = (colour - 0.5) / 2.0, (snr - 50.0) / 50.0
    dwarf, giant, one = (kind == 0) * 1.0, (kind == 1) * 1.0, np.ones_like(u)
    return [
        ("teff", "offset", one, 1.0, "offset.teff", True),
        ("teff", "colour", u, 1.0, "trend1.teff", True),
        ("teff", "snr", v, 15.0, None, False),
        ("fe_h", "offset", one, 0.2, None, False),
        ("fe_h", "colour:kind=dwarf", u * dwarf, 0.1, None, False),
        ("fe_h", "colour^2:kind=dwarf", u**2 * dwarf, 0.05, None, False),
        ("fe_h", "kind=giant", giant, 0.1, None, False),
        ("fe_h", "colour:kind=giant", u * giant, 0.1, None, False),
        ("fe_h", "colour^2:kind=giant", u**2 * giant, 0.05, None, False),
    ], {"colour:kind=dwarf": u * dwarf, "kind=giant": giant, "colour:kind=giant": u * giant}


def relative_rows(recipe, cat):
    kind, one = cat.x[:, :, 0], np.ones(cat.x.shape[:2])
    giant, hot = (kind == 1) * 1.0, (kind == 2) * 1.0
    return [
        ("fe_h", "offset", one, 1.0, "offset.fe_h", True),
        ("fe_h", "kind=giant", giant, 0.1, None, True),
        ("fe_h", "kind=hot", hot, 0.1, None, True),
    ], {"kind=giant": giant, "kind=hot": hot}


def freed_rows(recipe, cat):
    return [("fe_h", "offset", np.ones(cat.x.shape[:2]), 0.3, None, False)], {}


CASES = {
    "everything": (EVERYTHING, everything_rows),
    "relative": (RELATIVE, relative_rows),
    "freed": (FREED, freed_rows),
}


def sky(table, n_star=24, number=5):
    """Measurements of every kind: repeats, missing errors (all of c's), stars only one survey saw."""
    rng = np.random.default_rng(number)
    surveys, labels = list(table["surveys"]), list(table["labels"])
    covariates = table.get("covariates", {})
    rows = [
        (i, s, l)
        for i in range(n_star) for s in range(len(surveys)) for l in range(len(labels)) if rng.random() < 0.75
    ]  # fmt: skip
    rows += [(i, 1, l) for i in range(0, n_star, 4) for l in range(len(labels))]
    star, survey, label = np.array(sorted(rows)).T
    unit = np.array([40.0 if name == "teff" else 0.05 for name in labels])
    error = unit[label] * rng.uniform(0.6, 1.5, len(star))
    no_error = (rng.random(len(star)) < 0.3) & (survey == surveys.index("b"))
    error[no_error | (survey == (surveys.index("c") if "c" in surveys else -1))] = np.nan
    value = unit[label] * (100.0 + 10 * rng.normal(size=n_star)[star] + 3 * rng.normal(size=len(star)))
    x = np.zeros((n_star, len(surveys), len(covariates)))
    for k, (name, spec) in enumerate(covariates.items()):
        if "levels" in spec:
            x[:, :, k] = (np.arange(n_star) % len(spec["levels"]))[:, None]
        elif name == "snr":
            x[:, :, k] = rng.uniform(20, 120, (n_star, len(surveys)))
        else:
            x[:, :, k] = rng.uniform(-1, 2, n_star)[:, None]
    names = np.array([f"s{i}" for i in range(n_star)], dtype=object)
    return Catalogue(
        names, tuple(surveys), tuple(labels), tuple(covariates), star, survey, label, value, error, x,
        np.array([name != "snr" for name in covariates], bool),
    )  # fmt: skip


def priors_of(recipe):
    return Priors(recipe.priors.error_scale, recipe.priors.floor_trend)


def pairs(prepared):
    """(floor, floor term) of each gamma; a case has at most one floor table, so a floor has all terms or none."""
    out = []
    for k, (survey, label) in enumerate(prepared.floors):
        for f in prepared.recipe.floor:
            concerned = (not f.surveys or survey in f.surveys) and (not f.labels or label in f.labels)
            if concerned and label not in prepared.recipe.surveys[survey].anchor:
                out += [(k, m) for m in range(len(prepared.floor_names))]
    return out


def log_density(prepared):
    """Log density of the sampled sites, unconstrained, compiled."""
    kwargs = {"priors": priors_of(prepared.recipe)}
    args = jax.device_put((prepared.design, prepared.y))
    return jax.jit(lambda z: -potential_energy(crosscal, args, kwargs, z))


def points(prepared, n, number=0):
    """Unconstrained points spread wider than the prior."""
    run = trace(seed(crosscal, jax.random.PRNGKey(0))).get_trace(prepared.design, prepared.y)
    shapes = {k: v["value"].shape for k, v in run.items() if v["type"] == "sample" and not v["is_observed"]}
    rng = np.random.default_rng(number)
    centre = {k: jnp.zeros(shape) for k, shape in shapes.items()}
    if "floor" in centre:
        centre["floor"] = jnp.log(jnp.asarray(prepared.design.floor_unit))
    if "prior_sd" in centre:
        centre["prior_sd"] = jnp.log(jnp.asarray(prepared.design.scale_unit))
    return [{k: v + 0.7 * rng.normal(size=v.shape) for k, v in centre.items()} for _ in range(n)]


def carried(z, of, to):
    """The same unconstrained point, in the order of another design's names."""
    order = {
        "error_scale": [of.error_scales.index(name) for name in to.error_scales],
        "floor": [of.floors.index(name) for name in to.floors],
        "prior_sd": [of.scales.index(name) for name in to.scales],
    }
    out = {k: z[k][np.array(rows, int)] for k, rows in order.items() if k in z}
    if "floor_trend" in z:
        named = [(of.floors[k], of.floor_names[m]) for k, m in pairs(of)]
        at = [named.index((to.floors[k], to.floor_names[m])) for k, m in pairs(to)]
        out["floor_trend"] = z["floor_trend"][np.array(at)]
    return out


def quantities(prepared, z):
    """Named coefficients at their conditional mean."""
    constrained = {k: jnp.exp(v) if k != "floor_trend" else jnp.asarray(v) for k, v in z.items()}
    y = tuple(map(jnp.asarray, prepared.y))
    coefficients = draw_coefficients(jax.random.PRNGKey(0), constrained, prepared.design, y, white=0.0)
    sites = {k: np.asarray(v)[None, None] for k, v in {**constrained, **coefficients}.items()}
    return named_quantities(prepared, sites)


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def case(request):
    table, rows = CASES[request.param]
    recipe = parse_recipe(table)
    return table, rows, prepare(recipe, sky(table))


# --- the twin -------------------------------------------------------------------------------------------------------


def twin(table, terms_of, prepared):
    """The same model in PyMC, from the catalogue's rows and the equations alone: nothing of hbcal's design is used.

    z is integrated out by taking Helmert contrasts of each star's measurements, the coefficients by adding
    sd^2 phi phi^T to their covariance; a tied term's coefficients have covariance sd^2 (I - 11^T / n).
    """
    import pymc as pm
    import pytensor.tensor as pt

    recipe, cat = prepared.recipe, prepared.catalogue
    terms, floor_columns = terms_of(recipe, cat)
    with pm.Model() as model:
        a = pm.LogNormal("error_scale", 0.0, recipe.priors.error_scale, shape=len(prepared.error_scales))
        tau = pm.HalfNormal("floor", np.array([recipe.labels[l].floor_scale for _, l in prepared.floors]))
        n_gamma, where = len(prepared.floor_names), pairs(prepared)
        if n_gamma:
            flat = pm.Normal("floor_trend", 0.0, recipe.priors.floor_trend, shape=len(where))
            gamma = pt.set_subtensor(pt.zeros((len(prepared.floors), n_gamma))[tuple(np.transpose(where))], flat)
        if prepared.scales:
            of = {"offset": lambda l: table["labels"][l]["offset_scale"]}
            of |= {f"trend{i}": lambda _, t=t: t["scale"] for i, t in enumerate(table.get("trend", [])) if "scale" in t}
            unit = [of[name.split(".")[0]](name.split(".")[1]) for name in prepared.scales]
            learnt = pm.HalfNormal("prior_sd", np.array(unit), shape=len(unit))
        for l, label in enumerate(cat.labels):
            rows = np.flatnonzero(cat.label == l)
            star, survey = cat.star[rows], cat.survey[rows]
            names = [cat.surveys[s] for s in survey]
            anchors = {s for s, spec in table["surveys"].items() if label in spec.get("anchor", [])}
            a_of, tau_of, psi = np.full(len(rows), -1), np.full(len(rows), -1), np.zeros((len(rows), max(n_gamma, 1)))
            for r, (i, s, name) in enumerate(zip(star, survey, names, strict=True)):
                if (name, label) in prepared.error_scales:
                    a_of[r] = prepared.error_scales.index((name, label))
                if (name, label) in prepared.floors:
                    tau_of[r] = prepared.floors.index((name, label))
                for f in table.get("floor", []):
                    if name in f.get("surveys", [name]) and label in f.get("labels", [label]) and name not in anchors:
                        psi[r, :n_gamma] = [floor_columns[column][i, s] for column in prepared.floor_names]
            a_row = pt.concatenate([a, np.ones(1)])[a_of]
            tau_row = pt.concatenate([tau, np.zeros(1)])[tau_of]
            if n_gamma:
                tau_row = tau_row * pt.exp((pt.concatenate([gamma, np.zeros((1, n_gamma))])[tau_of] * psi).sum(1))
            covariance = pt.diag(np.nan_to_num(cat.error[rows]) ** 2 * a_row**2 + tau_row**2)
            free = [s for s in cat.surveys if s not in anchors and s in names]
            is_free = np.array([name in free for name in names])
            for term_label, _, column, sd, scale, tied in terms:
                if term_label != label:
                    continue
                phi = np.where(is_free, column[star, survey], 0.0)
                same = np.equal.outer(survey, survey) - (1.0 / len(free) if tied else 0.0)
                size = sd if scale is None else sd * learnt[prepared.scales.index(scale)]
                covariance = covariance + size**2 * np.outer(phi, phi) * same
            helmert, const = [], 0.0
            for i in np.unique(star):
                at = np.flatnonzero(star == i)
                if len(at) > 1:
                    h = np.zeros((len(at) - 1, len(rows)))
                    h[:, at] = linalg.helmert(len(at))
                    helmert.append(h)
                const -= 0.5 * np.log(len(at))
            h = np.concatenate(helmert)
            pm.MvNormal(f"y_{label}", np.zeros(len(h)), cov=h @ covariance @ h.T, observed=h @ cat.value[rows])
            pm.Potential(f"flat_{label}", pt.as_tensor_variable(const))
    return model


def test_pymc_twin_has_the_same_log_density(case):
    """Fifty points, unconstrained and with their Jacobians, no free constant."""
    table, terms_of, prepared = case
    ours, zs = log_density(prepared), points(prepared, 50)
    theirs = twin(table, terms_of, prepared).compile_logp(mode="FAST_COMPILE")
    suffix = {"error_scale": "_log__", "floor": "_log__", "prior_sd": "_log__", "floor_trend": ""}
    for z in zs:
        expected = float(theirs({k + suffix[k]: np.asarray(v) for k, v in z.items()}))
        assert float(ours(z)) == pytest.approx(expected, rel=1e-8)


# --- the dense Gaussian ---------------------------------------------------------------------------------------------


def dense_label(prepared, terms_of, label, z):
    """One label's model as matrices, from the catalogue's rows: y, noise, design, prior, contrasts, constant, names."""
    recipe, cat = prepared.recipe, prepared.catalogue
    terms, floor_columns = terms_of(recipe, cat)
    site = {k: np.exp(v) if k != "floor_trend" else np.asarray(v) for k, v in z.items()}
    rows = np.flatnonzero(cat.label == cat.labels.index(label))
    free = [s for s in cat.surveys if label not in recipe.surveys[s].anchor]
    noise = np.nan_to_num(cat.error[rows]) ** 2
    for j, r in enumerate(rows):
        name = (cat.surveys[cat.survey[r]], label)
        if name in prepared.error_scales:
            noise[j] *= site["error_scale"][prepared.error_scales.index(name)] ** 2
        if name in prepared.floors:
            k = prepared.floors.index(name)
            at = (cat.star[r], cat.survey[r])
            asked = any(
                (not f.surveys or name[0] in f.surveys) and (not f.labels or label in f.labels) for f in recipe.floor
            )
            gamma = dict(zip(pairs(prepared), site.get("floor_trend", []), strict=True))
            log = [gamma.get((k, m), 0.0) * floor_columns[c][at] for m, c in enumerate(prepared.floor_names)]
            noise[j] += (site["floor"][k] * np.exp(sum(log) if asked and name[0] in free else 0.0)) ** 2
    columns, blocks = {}, []
    for term_label, term, values, sd, scale, tied in terms:
        if term_label == label:
            size = sd if scale is None else sd * site["prior_sd"][prepared.scales.index(scale)]
            blocks.append(size**2 * (np.eye(len(free)) - (1.0 / len(free) if tied else 0.0)))
            for s in free:
                mine = cat.survey[rows] == cat.surveys.index(s)
                columns[s, term] = np.where(mine, values[cat.star[rows], cat.survey[rows]], 0.0)
    contrasts, const = [], 0.0
    for i in np.unique(cat.star[rows]):
        at = np.flatnonzero(cat.star[rows] == i)
        const -= 0.5 * np.log(len(at))
        if len(at) > 1:
            h = np.zeros((len(at) - 1, len(rows)))
            h[:, at] = linalg.helmert(len(at))
            contrasts.append(h)
    design = np.stack(list(columns.values()), axis=1)
    return (
        cat.value[rows], np.diag(noise), design, linalg.block_diag(*blocks), np.concatenate(contrasts), const,
        list(columns),
    )  # fmt: skip


def prior_log_density(prepared, z):
    """Of the sampled sites, in their own units."""
    recipe, total = prepared.recipe, 0.0
    priors = {
        "error_scale": lambda v: stats.lognorm(recipe.priors.error_scale).logpdf(np.exp(v)),
        "floor": lambda v: stats.halfnorm(0, prepared.design.floor_unit).logpdf(np.exp(v)),
        "floor_trend": lambda v: stats.norm(0, recipe.priors.floor_trend).logpdf(v),
        "prior_sd": lambda v: stats.halfnorm(0, prepared.design.scale_unit).logpdf(np.exp(v)),
    }
    for name, value in z.items():
        total += priors[name](np.asarray(value)).sum()
    return total


def test_log_density_is_that_of_a_dense_gaussian_and_the_priors(case):
    """In constrained space, no Jacobian: scipy's normal density of every contrast of every star."""
    _, terms_of, prepared = case
    kwargs = {"priors": priors_of(prepared.recipe)}
    args = jax.device_put((prepared.design, prepared.y))
    ours = jax.jit(lambda sites: log_density_at(crosscal, args, kwargs, sites)[0])
    for z in points(prepared, 10, number=1):
        expected = prior_log_density(prepared, z)
        for label in prepared.overlap.fitted:
            y, noise, design, prior, h, const, _ = dense_label(prepared, terms_of, label, z)
            covariance = h @ (noise + design @ prior @ design.T) @ h.T
            expected += stats.multivariate_normal(None, covariance).logpdf(h @ y) + const
        sites = {k: jnp.exp(v) if k != "floor_trend" else jnp.asarray(v) for k, v in z.items()}
        assert float(ours(sites)) == pytest.approx(expected, rel=1e-9)


def test_drawn_offsets_and_trends_have_the_moments_of_dense_gaussian_conditioning(case):
    """Means to rounding; variances and correlations of 4000 draws at 5 standard errors."""
    _, terms_of, prepared = case
    z, n = points(prepared, 1, number=2)[0], 4000
    sites = {k: jnp.exp(v) if k != "floor_trend" else jnp.asarray(v) for k, v in z.items()}
    y = tuple(map(jnp.asarray, prepared.y))
    keys = jax.random.split(jax.random.PRNGKey(2), n)

    def draw(keys, white):
        return jax.lax.map(lambda k: draw_coefficients(k, sites, prepared.design, y, white=white), keys)

    middle, drawn = draw(keys[:1], 0.0), draw(keys, 1.0)
    surveys = prepared.catalogue.surveys
    for label, expand in zip(prepared.overlap.fitted, prepared.expand, strict=True):
        values, noise, design, prior, h, _, names = dense_label(prepared, terms_of, label, z)
        gain = prior @ design.T @ h.T @ np.linalg.inv(h @ (noise + design @ prior @ design.T) @ h.T)
        expected, covariance = gain @ h @ values, prior - gain @ h @ design @ prior
        rows = np.stack([expand[surveys.index(s), prepared.terms.index(term)] for s, term in names])
        scale = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose((rows @ middle[f"coef_{label}"][0] - expected) / scale, 0.0, atol=1e-6)
        away = (np.asarray(drawn[f"coef_{label}"]) @ rows.T - expected) / scale
        correlation = covariance / np.outer(scale, scale)
        assert np.abs(away.mean(0)).max() < 5 / np.sqrt(n)
        limit = 5 * np.sqrt((1 + correlation**2) / n)  # the standard error of a product of two normal numbers
        assert (np.abs(away.T @ away / n - correlation) < limit).all()


# --- invariances ----------------------------------------------------------------------------------------------------


def same(prepared, other, n=5, shift=0.0, moved=lambda z: z):
    ours, theirs = log_density(prepared), log_density(other)
    for z in points(prepared, n):
        there = carried(moved(z), prepared, other)
        assert float(theirs(there)) == pytest.approx(float(ours(z)) + shift, rel=1e-9)
    return z, there


@pytest.mark.parametrize("order", [[2, 0, 1], [2, 1, 0]])
def test_permuting_surveys(case, order):
    table, _, prepared = case
    cat = sky(table)
    names = [cat.surveys[s] for s in order]
    again = replace(cat, surveys=tuple(names), survey=np.argsort(order)[cat.survey], x=cat.x[:, order])
    other = prepare(parse_recipe({**table, "surveys": {s: table["surveys"][s] for s in names}}), again)
    z, there = same(prepared, other)
    here, elsewhere = quantities(prepared, z), quantities(other, there)
    terms = [prepared.terms[1:].index(name) for name in other.terms[1:]]
    np.testing.assert_allclose(elsewhere["offset"], here["offset"][:, :, order], rtol=1e-7)
    np.testing.assert_allclose(elsewhere["trend"], here["trend"][:, :, order][..., terms], rtol=1e-6, atol=1e-9)


def test_a_survey_without_data(case):
    table, _, prepared = case
    cat = sky(table)
    recipe = parse_recipe({**table, "surveys": {**table["surveys"], "empty": {}}})
    nobody = np.full((cat.n_star, 1, cat.x.shape[2]), np.nan)
    other = prepare(recipe, replace(cat, surveys=(*cat.surveys, "empty"), x=np.concatenate([cat.x, nobody], axis=1)))
    z, there = same(prepared, other)
    offset = quantities(other, there)["offset"]
    np.testing.assert_allclose(offset[:, :, :-1], quantities(prepared, z)["offset"], rtol=1e-9)
    assert np.isnan(offset[:, :, -1]).all()


def test_a_star_only_one_survey_saw(case):
    table, _, prepared = case
    cat = sky(table)
    lone = len(cat.stars)
    other = replace(
        cat,
        stars=np.append(cat.stars, "lone"),
        star=np.append(cat.star, lone),
        survey=np.append(cat.survey, 1),
        label=np.append(cat.label, 0),
        value=np.append(cat.value, 1e4),
        error=np.append(cat.error, 0.01),
        x=np.concatenate([cat.x, cat.x[:1]]),
    )
    same(prepared, prepare(prepared.recipe, other))


def test_units():
    """K to kK, priors with it: the density of the data gets 1000 per difference between two measurements, no more."""
    prepared = prepare(parse_recipe(EVERYTHING), sky(EVERYTHING))
    cat = sky(EVERYTHING)
    scale = np.where(cat.label == 0, 1e-3, 1.0)
    labels = {**EVERYTHING["labels"], "teff": {"unit": "kK", "offset_scale": 0.08, "floor_scale": 0.04}}
    trend = [dict(t) for t in EVERYTHING["trend"]]
    trend[1]["scale"], trend[2]["sd"] = 0.04, 0.015
    recipe = parse_recipe({**EVERYTHING, "labels": labels, "trend": trend})
    other = prepare(recipe, replace(cat, value=cat.value * scale, error=cat.error * scale))
    teff = cat.label == 0
    n_difference = teff.sum() - len(np.unique(cat.star[teff]))
    floors = jnp.array([label == "teff" for _, label in prepared.floors])
    scales = jnp.array([name.endswith(".teff") for name in prepared.scales])

    def moved(z):
        less = np.log(1000.0)
        return {**z, "floor": z["floor"] - less * floors, "prior_sd": z["prior_sd"] - less * scales}

    z, there = same(prepared, other, shift=n_difference * np.log(1000.0), moved=moved)
    here, elsewhere = quantities(prepared, z), quantities(other, there)
    unit = np.array([1e3, 1.0])
    np.testing.assert_allclose(elsewhere["offset"] * unit, here["offset"], rtol=1e-7)
    np.testing.assert_allclose(elsewhere["trend"] * unit[:, None], here["trend"], rtol=1e-6, atol=1e-9)


def test_files_split_and_rows_shuffled(tmp_path):
    """The same measurements in one file, in two, in any order: one density."""
    table = {k: v for k, v in EVERYTHING.items() if k != "covariates"}
    table["covariates"] = {k: v for k, v in EVERYTHING["covariates"].items() if k != "snr"}
    table["trend"] = EVERYTHING["trend"][:2]
    cat = sky(table)
    frame = pd.DataFrame(
        {
            "star": cat.stars[cat.star], "survey": np.array(cat.surveys, object)[cat.survey],
            "label": np.array(cat.labels, object)[cat.label], "value": cat.value, "error": cat.error,
        }
    )  # fmt: skip
    kinds = np.array(["dwarf", "giant"], object)[cat.x[:, 0, 1].astype(int)]
    stars = pd.DataFrame({"star": cat.stars, "colour": cat.x[:, 0, 0], "kind": kinds})
    stars.to_csv(tmp_path / "stars.csv", index=False)
    about = {"file": "stars.csv", "layout": "stars", "covariates": {k: {"column": k} for k in ("colour", "kind")}}

    def prepared(*parts):
        for i, part in enumerate(parts):
            part.to_csv(tmp_path / f"m{i}.csv", index=False)
        data = [{"file": f"m{i}.csv", "layout": "long", "visits": True} for i in range(len(parts))]
        recipe = parse_recipe({**table, "data": [*data, about]})
        return prepare(recipe, observe(recipe, tmp_path))

    whole = prepared(frame)
    same(prepare(whole.recipe, cat), whole)
    same(whole, prepared(frame[:31], frame[31:]))
    same(whole, prepared(frame[50:], frame[:50]))
    same(whole, prepared(frame.sample(frac=1.0, random_state=3)))


# --- simulation and exact draws -------------------------------------------------------------------------------------


def test_without_y_it_simulates(case):
    _, _, prepared = case
    run = trace(seed(crosscal, jax.random.PRNGKey(1))).get_trace(prepared.design)
    sites = [k for k, v in run.items() if v["type"] == "sample"]
    assert {f"y_{l}" for l in prepared.overlap.fitted} | {f"coef_{l}" for l in prepared.overlap.fitted} <= set(sites)
    for label, y in zip(prepared.overlap.fitted, prepared.y, strict=True):
        assert run[f"y_{label}"]["value"].shape == y.shape
        assert np.isfinite(run[f"y_{label}"]["value"]).all()


def test_coefficients_drawn_have_the_moments_of_the_conditional(case):
    """Mean and covariance of many draws against the linear system they solve; limits at 5 standard errors."""
    _, _, prepared = case
    z = points(prepared, 1)[0]
    sites = {k: jnp.exp(v) if k != "floor_trend" else jnp.asarray(v) for k, v in z.items()}
    y, n = tuple(map(jnp.asarray, prepared.y)), 4000

    def draw(key, white):
        return draw_coefficients(key, sites, prepared.design, y, white=white)

    mean = draw(jax.random.PRNGKey(0), 0.0)
    drawn = jax.jit(jax.vmap(lambda key: draw(key, 1.0)))(jax.random.split(jax.random.PRNGKey(1), n))
    for site, middle in mean.items():
        away = np.asarray(drawn[site] - middle[None])
        sd = away.std(0)
        assert np.abs(away.mean(0) / sd).max() < 5 / np.sqrt(n)
    # a constrained point is what it says: the unconstrained one is its logarithm
    back = unconstrain_fn(crosscal, (prepared.design, y), {}, sites)
    for name, value in z.items():
        np.testing.assert_allclose(back[name], value, rtol=1e-9)
