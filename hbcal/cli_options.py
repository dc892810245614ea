"""Options that several commands have, and how they show progress."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Out = Annotated[Path, typer.Option(help="Folder or file to write; must not exist.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of every random number.")]
Chains = Annotated[int | None, typer.Option(help="Number of chains.")]
Draws = Annotated[int | None, typer.Option(help="Draws per chain.")]
Warmup = Annotated[int | None, typer.Option(help="Warmup steps per chain.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run; start afresh if there is none.")]
AcceptFailed = Annotated[bool, typer.Option("--accept-failed", help="Exit 0 even if the diagnostics fail.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")]


def say(text: str) -> None:
    """Progress goes to stderr: one line that is rewritten on a terminal, line after line otherwise.

    Args:
        text: a line.

    Returns:
        Nothing.

    Errors:
        None.

    Example:
        >>> say("read 10 rows")
    """
    if text.startswith(("sampling: ", "read ", "synthesis: ")) and sys.stderr.isatty():
        print(f"\r{text}   ", end="", file=sys.stderr, flush=True)
        return
    print(text, file=sys.stderr, flush=True)


def verdict(result: Any, out: Path, accept_failed: bool) -> None:
    """End a command that sampled: say where its run is, or that it failed its gate, and exit with status 3.

    Args:
        result: the run.
        out: its folder.
        accept_failed: whether a failed gate exits with status 0.

    Returns:
        Nothing.

    Errors:
        typer.Exit where the gate is failed.

    Example:
        >>> verdict(tiny_population_run(), Path("run"), False)
        wrote run
    """
    if not result.passed:
        print(f"hbcal: DIAGNOSTICS FAILED, do not use this posterior: {result.diagnostics_text}", file=sys.stderr)
        raise typer.Exit(0 if accept_failed else 3)
    print(f"wrote {out}")


def warned(opened: Any, run: Path) -> Any:
    """A run that was opened, after a warning if it failed its gate.

    Args:
        opened: the run.
        run: its folder.

    Returns:
        The run.

    Errors:
        None.

    Example:
        >>> warned(tiny_population_run(), Path("run")).passed
        True
    """
    if not opened.passed:
        print(f"hbcal: warning: the run in {run} failed its diagnostics: {opened.diagnostics_text}", file=sys.stderr)
    return opened
