"""Options that several commands have, and how they show progress."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Folder or file to write; must not exist.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of every random number.")]
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
