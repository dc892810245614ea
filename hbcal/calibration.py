"""The first job: catalogues in, the posterior of their zero points and trends out. Read it top to bottom."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hbcal import __version__
from hbcal._errors import HbcalError
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.copies import find_copies
from hbcal.catalogue.observe import observe
from hbcal.dependents import second_quantities, second_stage, second_task
from hbcal.design import Prepared, named_quantities, prepare, voting
from hbcal.folder import check_out, locked, refuse_another_run, run_mark, write_text
from hbcal.infer.diagnose import Judged, diagnose
from hbcal.infer.sample import sample
from hbcal.infer.task import Settings
from hbcal.problem import Problem, outlier_probability, pose, suspects
from hbcal.recipe import Recipe, load_recipe
from hbcal.run import Run, open_run
from hbcal.tree import build_tree, dataset, measurements


class ConvergenceWarning(UserWarning):
    """A posterior failed its diagnostics: its draws are kept, and must not be used as they are."""


class CopyWarning(UserWarning):
    """Two voting surveys agree as only copies do: counted twice, they drive each other's floor to zero."""


def undeclared_copies(prepared: Prepared) -> list[str]:
    """Voting surveys that look like copies of each other, in words; see `hbcal.catalogue.copies.find_copies`.

    Args:
        prepared: a catalogue and its recipe.

    Returns:
        A sentence per pair of surveys and label.

    Errors:
        None.

    Example:
        >>> undeclared_copies(tiny_prepared())
        []
    """
    recipe, cat = prepared.recipe, prepared.catalogue
    scale = {name: spec.floor_scale for name, spec in recipe.labels.items()}
    return [copy.text() for copy in find_copies(cat, scale, voting(recipe, cat))]


def calibrate(
    recipe: Recipe | str | Path,
    data: str | Path | Catalogue,
    out: str | Path,
    *,
    seed: int = 0,
    chains: int | None = None,
    draws: int | None = None,
    warmup: int | None = None,
    resume: bool = False,
    workers: int | None = None,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> Run:
    """Fit the zero points, trends, error scales and floors of surveys that share stars.

    Args:
        recipe: a `Recipe`, the path of a ``recipe.toml``, or the name of a packaged one.
        data: folder with the files the recipe names, or a `Catalogue`; values in the recipe's units.
        out: folder of the run; must not hold anything unless `resume`.
        seed, chains, draws, warmup: of the sampler; the recipe's where None; draws and warmup are per chain.
        resume: go on with a run that was interrupted; draws are the same to the bit. Nothing there: start afresh.
        workers: processes that share the chains, 0 for threads of this one; None lets the size of the task decide.
        device: ``"cpu"``, ``"gpu"``, or ``"auto"`` (a GPU when there is one and the work is large).
        progress: called with lines of text.

    Returns:
        The `Run`, also kept in `out`.

    Errors:
        HbcalError for anything wrong with recipe, data or folder, before anything is written. A posterior that fails
        its diagnostics is kept and warned about (`ConvergenceWarning`); `Run.diagnostics` says why.

    Example:
        >>> import tempfile
        >>> settings = {"chains": 4, "warmup": 300, "draws": 1000, "workers": 0}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = calibrate(tiny_run().recipe, tiny_sky().catalogue, Path(folder) / "run", **settings)
        ...     dict(run.posterior["trend"].sizes), run.passed
        ({'chain': 4, 'draw': 1000, 'survey': 3, 'label': 1, 'term': 2}, True)
    """
    say = progress or (lambda text: None)
    out = Path(out)
    check_out(out, resume=resume)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    catalogue = data if isinstance(data, Catalogue) else observe(recipe, Path(data))
    prepared = prepare(recipe, catalogue)
    settings = _settings(recipe, prepared, seed, chains, draws, warmup, workers, device)

    mark = run_mark(recipe.text, catalogue.digest(), settings.identity())
    refuse_another_run(out, mark)
    if (out / "posterior.nc").exists():
        say(f"{out} is complete already: nothing to resume")
        return open_run(out)

    say(prepared.overlap.text({name: recipe.unit(name) for name in recipe.labels}))
    for source in catalogue.sources:
        if source.get("flagged"):
            say(
                f"{source['flagged']} flagged star(s) of {source['file']} take part: keep = {{ flag = [false] }} in "
                "[[data]] leaves them out"
            )
    copies = undeclared_copies(prepared)
    if copies:
        warnings.warn(f"{'; '.join(copies)}: declare it with depends_on in the recipe", CopyWarning, stacklevel=2)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        write_text(out / "run.json", json.dumps(mark, indent=1))
        begun = datetime.now(UTC)
        problem = pose(prepared)
        prepared = problem.prepared
        for reason, n in prepared.catalogue.left_out.items():
            say(f"left out: {n}, {reason}")
        if not problem.converged:
            say("the search for the posterior's mode did not end: the chains start where it had got to")
        say(f"sampling on the {settings.platform}: {settings.chains} chains of {settings.warmup} + {settings.draws}")
        sites, stats = sample(problem.task, settings, out / "chains", progress=say)
        quantities = named_quantities(prepared, sites)
        probability = outlier_probability(prepared, sites)
        voters = dataset(prepared, quantities)
        second = second_stage(prepared, voters)
        if second is not None:
            say(f"dependent surveys: {len(second.y)} measurements, {len(second.pairs)} labels")
            more, more_stats = sample(second_task(prepared, second), settings, out / "dependents", progress=say)
            stats |= {f"{name}_dependents": values for name, values in more_stats.items()}
            quantities = second_quantities(prepared, second, more, quantities, voters, probability)
        provenance = _provenance(prepared, settings) | {
            "identity": mark["identity"], "copies": copies, "begun": begun.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        run = _write(out, problem, quantities, stats, probability, provenance)
        for name in ("chains", "dependents"):
            shutil.rmtree(out / name, ignore_errors=True)
    say(run.diagnostics_text)
    warn_failed(run, out)
    return run


def warn_failed(run: Judged, out: Path) -> None:
    """Say loudly that a posterior failed its gate.

    Args:
        run: of any kind.
        out: its folder.

    Returns:
        Nothing; warns with `ConvergenceWarning`, at whoever called the job, if it failed.

    Errors:
        None.

    Example:
        >>> warn_failed(tiny_population_run(), Path("run"))  # which passed
    """
    if not run.passed:
        text = f"The posterior in {out} failed its diagnostics: {run.diagnostics_text}"
        warnings.warn(text, ConvergenceWarning, stacklevel=3)


def refuse_few(chains: int | None, draws: int | None, warmup: int | None) -> None:
    """Refuse numbers that no sampler can work with.

    Args:
        chains, draws, warmup: of the sampler; None is the recipe's own.

    Returns:
        Nothing.

    Errors:
        HbcalError for the first that is too small.

    Example:
        >>> refuse_few(4, 1, None)
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The number of draws is 1: it must be at least 4.
    """
    for name, value, least in (("chains", chains, 1), ("draws", draws, 4), ("warmup", warmup, 1)):
        if value is not None and value < least:
            raise HbcalError(f"The number of {name} is {value}: it must be at least {least}.")


def _settings(
    recipe: Recipe, prepared: Prepared, seed: int, chains: int | None, draws: int | None, warmup: int | None,
    workers: int | None, device: str,
) -> Settings:  # fmt: skip
    spec = recipe.sampling
    refuse_few(chains, draws, warmup)
    if device not in ("auto", "cpu", "gpu"):
        raise HbcalError(f"The device is {device!r}: it must be auto, cpu or gpu.")
    gradient = sum(b.phi.size * b.phi.shape[2] * b.phi.shape[1] for x in prepared.design.labels for b in x.blocks)
    if device != "cpu":
        import jax

        there = any(d.platform == "gpu" for d in jax.devices())
        if device == "gpu" and not there:
            raise HbcalError("The device is gpu, but JAX sees none: install hbcal-surveys[cuda], or use --device cpu.")
        # below some 10^9 multiplications a gradient is over before a GPU has been told to begin
        device = "gpu" if there and (device == "gpu" or gradient > 1e9) else "cpu"
    if workers is None and device == "cpu" and gradient < 1e5:
        workers = 0  # over before processes have started
    return Settings(
        chains or spec.chains, warmup or spec.warmup, draws or spec.draws, seed, spec.thin, spec.chunk,
        spec.target_accept, spec.max_tree_depth, workers=workers, platform=device,
    )  # fmt: skip


def _provenance(prepared: Prepared, settings: Settings) -> dict[str, Any]:
    """What was fitted to what, with what; plain values, for JSON."""
    import jax
    import numpyro

    recipe, graph, members = prepared.recipe, prepared.overlap, prepared.catalogue.members
    return {
        "hbcal": __version__,
        "recipe": recipe.name,
        "program": recipe.program,
        "seed": settings.seed,
        "settings": settings.identity(),
        "device": settings.platform,
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpyro": numpyro.__version__},
        "machine": platform.machine(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "sources": list(prepared.catalogue.sources),
        "left_out": dict(prepared.catalogue.left_out),
        "scale": {
            l: "anchored on " + ", ".join(graph.anchored[l]) if graph.anchored[l] else "relative scale"
            for l in graph.fitted
        },
        "single": list(graph.single),
        "dependent": {s: list(recipe.surveys[s].depends_on) for s in recipe.dependent},
        "own_scale": {s: list(spec.own_scale) for s, spec in recipe.surveys.items() if spec.own_scale},
        "floor_sums_only": {k: list(v) for k, v in graph.sums.items()},
        "overlap": [vars(tie) for tie in graph.ties],
        "units": {label: recipe.unit(label) for label in recipe.labels},
        "clusters": dict(zip(members.names, members.kinds, strict=True)) if members else {},
    }


def _write(
    out: Path, problem: Problem, quantities: dict[str, np.ndarray], stats: dict[str, np.ndarray],
    probability: np.ndarray | None, provenance: dict[str, Any],
) -> Run:  # fmt: skip
    """Everything a run holds; ``posterior.nc`` last, since its presence means the run is complete."""
    prepared, recipe = problem.prepared, problem.prepared.recipe
    tree = build_tree(prepared, quantities, stats, provenance)
    tree["clipped_data"] = xr.DataTree(measurements(problem.clipped))  # without a source others may be clipped
    if probability is not None:
        observed = tree["observed_data"].to_dataset()
        tree["observed_data"] = xr.DataTree(observed.assign(suspects(prepared, probability)))
    found = diagnose(tree["posterior"].to_dataset(), tree["sample_stats"].to_dataset())
    tree.attrs["diagnostics"] = tree["posterior"].attrs["diagnostics"] = json.dumps(found.as_dict())
    write_text(out / "recipe.toml", recipe.text)
    write_text(out / "provenance.json", json.dumps(provenance, indent=1))
    write_text(out / "diagnostics.json", json.dumps(found.as_dict(), indent=1))
    write_text(out / "overlap.txt", prepared.overlap.text(provenance["units"]) + "\n")
    beside = out / "posterior.nc.part"
    tree.to_netcdf(beside, engine="h5netcdf")
    run = Run(out, recipe, tree)
    run.write_summary(out / "summary.ecsv")
    run.write_figures(out)
    beside.replace(out / "posterior.nc")
    return replace(run)
