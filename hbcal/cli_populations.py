"""The commands of the third job, thin."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from hbcal.cli_options import AcceptFailed, Out, Overwrite, Seed, say


def populations(
    recipe: Annotated[str, typer.Argument(help="Path of a populations.toml, or the name of a packaged one.")],
    data: Annotated[Path, typer.Option(help="Folder with the table the recipe names.")],
    out: Out,
    fast: Annotated[bool, typer.Option("--fast", help="Gibbs' sampler alone instead of NUTS.")] = False,
    seed: Seed = 0,
    chains: Annotated[int | None, typer.Option(help="Number of chains.")] = None,
    draws: Annotated[int | None, typer.Option(help="Draws per chain.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Warmup steps per chain.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    accept_failed: AcceptFailed = False,
) -> None:
    """Which populations there are among stars, how many, and who belongs to them."""
    from hbcal.populations import populations as run

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdict is printed, and the exit status says it again
        result = run(
            recipe, data, out, fast=fast, seed=seed, chains=chains, draws=draws, warmup=warmup, resume=resume,
            progress=say,
        )  # fmt: skip
    if not result.passed:
        print(f"hbcal: DIAGNOSTICS FAILED, do not use this posterior: {result.diagnostics_text}", file=sys.stderr)
        raise typer.Exit(0 if accept_failed else 3)
    print(f"wrote {out}")


def members(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of populations.")],
    table: Annotated[Path, typer.Argument(help="Table with the columns that its recipe names.")],
    out: Annotated[Path, typer.Option(help="Table to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Who belongs to which population, and how sure that is; in the order given."""
    from hbcal.catalogue.write import TABLES
    from hbcal.folder import check_file
    from hbcal.population_run import open_populations, write_members

    check_file(out, TABLES, overwrite=overwrite)
    opened = open_populations(run)
    if not opened.passed:
        print(f"hbcal: warning: the run in {run} failed its diagnostics: {opened.diagnostics_text}", file=sys.stderr)
    columns = opened.members(table)
    write_members(columns, out)
    n_without = int((columns["reason"] != "").sum())
    print(f"wrote {out}: {len(columns['star'])} rows, {n_without} without an answer (see reason)")
