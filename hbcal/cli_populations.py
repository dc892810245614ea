"""The commands of the third job, thin."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

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


def populations(
    recipe: Annotated[str, typer.Argument(help="Path of a populations.toml, or the name of a packaged one.")],
    data: Annotated[Path, typer.Option(help="Folder with the table the recipe names.")],
    out: Out,
    from_calibration: Annotated[
        Path | None, typer.Option(help="Run of calibrate, on whose scale the stars are put, with its uncertainty.")
    ] = None,
    joint: Annotated[bool, typer.Option("--joint", help="Let populations have a say in the calibration.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Gibbs' sampler alone instead of NUTS.")] = False,
    seed: Seed = 0,
    chains: Chains = None,
    draws: Draws = None,
    warmup: Warmup = None,
    resume: Resume = False,
    accept_failed: AcceptFailed = False,
) -> None:
    """Which populations there are among stars, how many, and who belongs to them."""
    from hbcal.populations import populations as run
    from hbcal.run import open_run

    calibration = warned(open_run(from_calibration), from_calibration) if from_calibration else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdict is printed, and the exit status says it again
        result = run(
            recipe, data, out, from_calibration=calibration, joint=joint, fast=fast, seed=seed, chains=chains,
            draws=draws, warmup=warmup, resume=resume, progress=say,
        )  # fmt: skip
    verdict(result, out, accept_failed)


def members(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of populations.")],
    table: Annotated[Path, typer.Argument(help="Table with the columns that its recipe names.")],
    out: Annotated[Path, typer.Option(help="Table to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Who belongs to which population, and how sure that is; in the order given."""
    from hbcal.catalogue.write import TABLES, write_table
    from hbcal.folder import check_file
    from hbcal.population_run import open_populations

    check_file(out, TABLES, overwrite=overwrite)
    columns = warned(open_populations(run), run).members(table)
    write_table(out, columns, {}, {})
    n_without = int((columns["reason"] != "").sum())
    print(f"wrote {out}: {len(columns['star'])} rows, {n_without} without an answer (see reason)")
