"""The third job: abundances in, the posterior of their populations out. Read it top to bottom."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from hbcal import __version__
from hbcal._errors import HbcalError, some
from hbcal.calibration import refuse_few, warn_failed
from hbcal.catalogue.abundances import Abundances, read_abundances, refuse_unfit
from hbcal.common_scale import put_on_scale
from hbcal.folder import check_out, locked, refuse_another_run, run_mark, write_text
from hbcal.infer.diagnose import BFMI_LEAST, ESS_LEAST, R_HAT_MOST, diagnose
from hbcal.infer.sample import sample
from hbcal.infer.task import Settings
from hbcal.numerics.partitions import credible_bounds
from hbcal.numerics.sticks import left_over
from hbcal.population_check import (
    N_SIMULATED,
    STATISTICS,
    TRUSTED,
    leave_one_out,
    of_posterior,
    of_prior,
    shares_below,
    statistics,
)
from hbcal.population_design import Posed, pose, priors_of, scaled
from hbcal.population_draws import log_each, moments, populations_of, thinned
from hbcal.population_recipe import PopulationRecipe, load_populations
from hbcal.population_run import CALIBRATION, COMPLETE, PopulationRun, open_populations
from hbcal.population_split import splits
from hbcal.run import Run, keep_run, open_run

AGREE = 1.1  # R-hat of chains that more draws may help


def populations(
    recipe: PopulationRecipe | str | Path,
    data: str | Path | Abundances,
    out: str | Path,
    *,
    from_calibration: Run | str | Path | None = None,
    joint: bool = False,
    fast: bool = False,
    seed: int = 0,
    chains: int | None = None,
    draws: int | None = None,
    warmup: int | None = None,
    resume: bool = False,
    workers: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> PopulationRun:
    """Fit a Dirichlet-process mixture to stars whose errors are known.

    Args:
        recipe: a `PopulationRecipe`, the path of one, or the name of a packaged one.
        data: folder with the table the recipe names, or `Abundances`.
        out: folder of the run; must not hold anything unless `resume`.
        from_calibration: run of `hbcal.calibrate`, or its folder: stars of the survey that the recipe names are put on
            its scale, and its uncertainty, which they share, goes into the populations.
        joint: let the populations have a say in that calibration; by default it is cut, and keeps to its posterior.
        fast: Gibbs' sampler alone, of the same posterior: cheaper draws that hang together more.
        seed, chains, draws, warmup: of the sampler; the recipe's where None; draws and warmup are per chain. Chains
            that agree but have too few effective draws go on, as the recipe's `extend` says, unless draws are given.
        resume: go on with a run that was interrupted; draws are the same to the bit. Nothing there: start afresh.
        workers: processes that share the chains, 0 for threads of this one.
        progress: called with lines of text.

    Returns:
        The `PopulationRun`, also kept in `out`.

    Errors:
        HbcalError for anything wrong with recipe, data or folder, before anything is written. A posterior that fails
        its diagnostics is kept and warned about (`ConvergenceWarning`).

    Example:
        >>> run = tiny_population_run()  # populations(tiny_populations(), tiny_abundances(), out, fast=True)
        >>> run.passed, run.populations.sizes["population"]
        (True, 2)
    """
    say = progress or (lambda text: None)
    out = Path(out)
    check_out(out, resume=resume)
    recipe = recipe if isinstance(recipe, PopulationRecipe) else load_populations(recipe)
    if joint and from_calibration is None and getattr(data, "shift", None) is None:
        raise HbcalError("joint needs a calibration that the stars share: give --from-calibration, too.")
    calibration = open_run(from_calibration) if isinstance(from_calibration, str | Path) else from_calibration
    directions, where = np.zeros((0, 0)), "The table of Abundances"
    if isinstance(data, Abundances):
        if calibration is not None:
            raise HbcalError("Abundances that are given as such are taken as they are: give the folder of their table.")
        stars = data
    else:
        stars, where = read_abundances(recipe, Path(data)), recipe.stars.file
        if calibration is not None:
            path = Path(data) / recipe.stars.file
            stars, directions = put_on_scale(stars, calibration, path, recipe.stars.survey)
            stars, where = stars.with_any(), f"{path.name}, where the calibration has an answer,"
    _refuse_untold(stars, calibrated=calibration is not None)
    refuse_unfit(stars, recipe.mixture.components, where)
    settings = _settings(recipe, fast, seed, chains, draws, warmup, workers)
    recipe = dataclasses.replace(recipe, sampling=dataclasses.replace(recipe.sampling, chains=settings.chains))

    extend = 1 if draws else recipe.sampling.extend
    how_long = settings.identity() | {"extend": extend} | ({"joint": True} if joint else {})
    mark = run_mark(recipe.text, stars.digest(), how_long)
    refuse_another_run(out, mark)
    if (out / COMPLETE).exists():
        say(f"{out} is complete already: nothing to resume")
        return open_populations(out)

    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        write_text(out / "run.json", json.dumps(mark, indent=1))
        if calibration is not None:
            keep_run(calibration, out / CALIBRATION)
            kept = [name for name in stars.elements if name not in calibration.calibrated_labels(recipe.stars.survey)]
            say(f"calibration of {recipe.stars.survey} from {calibration.path}, {'joint' if joint else 'cut'}")
            if kept:
                say(f"not calibrated, taken as they are: {', '.join(kept)}")
        begun = datetime.now(UTC)
        for reason, n in stars.left_out.items():
            say(f"left out: {n}, {reason}")
        n_flagged = 0 if stars.flag is None else int(stars.flag.sum())
        if n_flagged:
            say(f"{n_flagged} flagged star(s) take part: keep = {{ flag = [false] }} in [stars] leaves them out")
        for name, seen in zip(stars.elements, np.isfinite(stars.value).any(axis=0), strict=True):
            if not seen:
                say(f"no star has {name}: it follows its prior")
        posed = pose(stars, recipe, recipe.sampling.fast_sweeps if fast else recipe.sampling.sweeps, joint=joint)
        how = "Gibbs sweeps" if fast else "NUTS and Gibbs sweeps"
        say(
            f"sampling {len(stars.star)} stars, {how}: {settings.chains} chains of {settings.warmup} + {settings.draws}"
        )
        sites, stats, settings = _sampled(stars, posed, settings, out / "chains", extend, say)
        provenance = {
            "hbcal": __version__, "recipe": recipe.name, "program": "dp_mixture", "seed": settings.seed, "sampler": how,
            "settings": settings.identity(), "machine": platform.machine(), "identity": mark["identity"],
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), "left_out": dict(stars.left_out),
            "flagged": n_flagged,
            "begun": begun.isoformat(timespec="seconds"), "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "truncation": float(left_over(recipe.mixture.components, sites["concentration"]).mean()),
            "units": dict(zip(stars.elements, stars.units, strict=True)),
            "calibration": "" if stars.shift is None else "joint" if joint else "cut",
        }  # fmt: skip
        run = _write(out, recipe, stars, posed, sites, stats, provenance, directions)
        shutil.rmtree(out / "chains", ignore_errors=True)
    say(run.diagnostics_text)
    warn_failed(run, out)
    return run


def _refuse_untold(stars: Abundances, *, calibrated: bool) -> None:
    """No element may be left without errors: its values would weigh as if they had none."""
    untold = np.isnan(np.einsum("nee->ne", stars.covariance)).any(axis=0)
    names = [name for name, bad in zip(stars.elements, untold, strict=True) if bad]
    if names:
        why = "the calibration does not know them" if calibrated else "there is no calibration that knows their scatter"
        cure = "name their error columns" if calibrated else "name their error columns, or give --from-calibration"
        raise HbcalError(f"The element(s) {some(names)} have no error column, and {why}: {cure}.")


def _settings(
    recipe: PopulationRecipe, fast: bool, seed: int, chains: int | None, draws: int | None, warmup: int | None,
    workers: int | None,
) -> Settings:  # fmt: skip
    spec = recipe.sampling
    refuse_few(chains, draws, warmup)
    return Settings(
        chains or spec.chains, warmup or (spec.fast_warmup if fast else spec.warmup),
        draws or (spec.fast_draws if fast else spec.draws), seed, target_accept=spec.target_accept,
        max_tree_depth=0 if fast else spec.max_tree_depth, workers=workers,
    )  # fmt: skip


def _sampled(
    stars: Abundances, posed: Posed, settings: Settings, folder: Path, extend: int, say: Callable[[str], None]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Settings]:
    """Chains as long as the gate asks for; those that went to different places are not helped by more draws."""
    most = extend * settings.draws
    while True:
        sites, stats = sample(posed.task, settings, folder, progress=say)
        stats = stats if settings.max_tree_depth else {}
        found = diagnose(_posterior(stars, posed, sites), _stats(stats))
        longer = min(2 * settings.draws, most)
        few = found.r_hat > R_HAT_MOST or min(found.ess_bulk, found.ess_tail) < ESS_LEAST
        agree = found.r_hat <= AGREE and found.bfmi >= BFMI_LEAST and not found.divergences
        if not (few and agree) or longer == settings.draws:
            return sites, stats, settings
        say(f"{'; '.join(found.failures)}: going on, to {longer} draws of each chain")
        settings = dataclasses.replace(settings, draws=longer)


def _write(
    out: Path, recipe: PopulationRecipe, stars: Abundances, posed: Posed, sites: dict[str, np.ndarray],
    stats: dict[str, np.ndarray], provenance: dict[str, Any], directions: np.ndarray,
) -> PopulationRun:  # fmt: skip
    """Everything a run holds; its tree last, since its presence means the run is complete."""
    tree = _tree(recipe, stars, posed, sites, stats, directions)
    found = diagnose(tree["posterior"].to_dataset(), tree["sample_stats"].to_dataset())
    tree.attrs |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in provenance.items()}
    tree.attrs["diagnostics"] = tree["posterior"].attrs["diagnostics"] = json.dumps(found.as_dict())
    write_text(out / "populations.toml", recipe.text)
    write_text(out / "provenance.json", json.dumps(provenance, indent=1))
    write_text(out / "diagnostics.json", json.dumps(found.as_dict(), indent=1))
    run = PopulationRun(out, recipe, tree)
    write_text(out / "report.txt", run.text())
    run.write_figures(out)
    beside = out / f"{COMPLETE}.part"
    tree.to_netcdf(beside, engine="h5netcdf")
    beside.replace(out / COMPLETE)
    return run


def _posterior(stars: Abundances, posed: Posed, sites: dict[str, np.ndarray]) -> xr.Dataset:
    """What the gate judges: nothing of it hangs on which component is called which."""
    both = ("chain", "draw")
    out = xr.Dataset(
        {
            "concentration": (both, sites["concentration"]), "background": (both, sites["background"]),
            "n_occupied": (both, sites["n_occupied"].astype(float)),
            "log_density": ((*both, "point"), sites["log_density"] - np.log(posed.unit).sum()),
            "coclustering": ((*both, "pair"), sites["coclustering"]),
        },
        {"element": list(stars.elements), "point_at": (("point", "element"), posed.centre + posed.unit * posed.points),
         "pair_of": (("pair", "two"), stars.star.astype(str)[posed.pairs])},
    )  # fmt: skip
    if "calibration" in sites:
        out["calibration"] = ((*both, "shift"), sites["calibration"])
    return out


def _stats(stats: dict[str, np.ndarray]) -> xr.Dataset:
    return xr.Dataset({name: (("chain", "draw"), values) for name, values in stats.items()})


def _tree(
    recipe: PopulationRecipe,
    stars: Abundances,
    posed: Posed,
    sites: dict[str, np.ndarray],
    stats: dict[str, np.ndarray],
    directions: np.ndarray,
) -> xr.DataTree:
    """The draws, what they are judged on, and what they say of populations and stars, in the recipe's units."""
    centre, unit, n_star = posed.centre, posed.unit, len(stars.star)
    few, which = thinned(sites, priors_of(recipe.mixture))
    packed = scaled(stars, centre, unit)
    population, away, of, probability, spread = populations_of(packed, n_star, few, which)
    bounds = credible_bounds(away, which)
    left_one_out, k_hat = leave_one_out(log_each(packed, n_star, few))
    volume = (np.isfinite(stars.value) * np.log(unit)).sum(1)
    posterior = _posterior(stars, posed, sites)
    real = np.asarray(statistics(jnp.asarray(packed.value), packed, n_star))
    simulated = {"prior": of_prior(posed.task, n_star), "posterior": of_posterior(few, packed, n_star)}
    weight, mean, covariance = moments(few, of)
    square = unit[:, None] * unit[None, :]
    star, element = stars.star.astype(str), list(stars.elements)
    n_population = weight.shape[1]
    observed = {"value": (("star", "element"), stars.value),
                "covariance": (("star", "element", "element_2"), stars.covariance)}  # fmt: skip
    if stars.shift is not None:
        observed["shift"] = (("star", "element", "shift"), stars.shift)
    groups = {
        "posterior": posterior,
        "sample_stats": _stats(stats),
        "components": xr.Dataset(
            {
                "log_weight": (("some", "component"), few.log_weight),
                "mean": (("some", "component", "element"), centre + unit * few.mean),
                "covariance": (("some", "component", "element", "element_2"), few.covariance * square),
                "population_of": (("some", "component"), of.astype(np.int8)),
                "component_of": (("some", "star"), which.astype(np.int8)), "distance": ("some", away),
                "calibration": (("some", "shift"), few.calibration),
            },
            {"element": element, "element_2": element, "star": star},
        ),
        "populations": xr.Dataset(
            {
                "weight": (("some", "population"), weight),
                "mean": (("some", "population", "element"), centre + unit * mean),
                "covariance": (("some", "population", "element", "element_2"), covariance * square),
            },
            {"population": np.arange(1, n_population + 1), "element": element, "element_2": element},
        ),
        "stars": xr.Dataset(
            {
                "population": ("star", population), "probability": (("star", "belongs_to"), probability),
                "probability_sd": (("star", "belongs_to"), spread),
                "log_density": ("star", left_one_out - volume), "k_hat": ("star", k_hat),
                **{f"ball_{name}": ("star", one.astype(np.int8))
                   for name, one in zip(("coarsest", "finest", "farthest"), bounds, strict=True)},
            },
            {"star": star, "belongs_to": np.arange(n_population + 1)},
        ),
        "checks": xr.Dataset(
            {name: (("statistic", "element"), shares_below(each, real)) for name, each in simulated.items()},
            {"statistic": list(STATISTICS), "element": element},
            {"n_simulated": N_SIMULATED, "trusted": TRUSTED},
        ),
        "observed_data": xr.Dataset(observed, {"star": star, "element": element, "element_2": element}),
        "constant_data": xr.Dataset(
            {"centre": ("element", centre), "unit": ("element", unit),
             "directions": (("of_calibration", "shift_of"), directions)},
            {"element": element},
        ),
    }  # fmt: skip
    parted = splits(groups["components"], stars.value, recipe.split_at)
    return xr.DataTree.from_dict(groups | ({} if parted is None else {"split": parted}))
