"""A run's folder: who may write to it, what it already holds, and files that are complete or absent."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hbcal import __version__
from hbcal._errors import HbcalError

if TYPE_CHECKING:
    import xarray as xr


def check_out(out: Path, *, resume: bool | None = None) -> None:
    """Refuse an output folder that cannot be used, before anything is made.

    Args:
        out: the folder to be.
        resume: whether what it holds may be continued; None for a command that has no ``--resume``.

    Returns:
        Nothing.

    Errors:
        HbcalError when it is a file, cannot be written, or holds something and `resume` is not True.

    Example:
        >>> check_out(Path("/proc/hbcal"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The output folder /proc/hbcal cannot be made: /proc is not writable; choose another.
    """
    if out.exists() and not out.is_dir():
        raise HbcalError(f"The output {out} is a file: --out names a folder.")
    if out.is_dir() and any(out.iterdir()) and not resume:
        go_on = "" if resume is None else ", or go on with --resume"
        raise HbcalError(f"The output folder {out} is in use: choose another --out{go_on}.")
    parent = out
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise HbcalError(f"The output folder {out} cannot be made: {parent} is a file; choose another --out.")
    if not _writable(parent):
        raise HbcalError(f"The output folder {out} cannot be made: {parent} is not writable; choose another.")


def check_file(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> None:
    """Refuse an output file that cannot be written, before any work is done.

    Args:
        path: the file to be; a ``.zarr`` is a folder.
        suffixes: the kinds allowed.
        overwrite: whether an existing one may be replaced.

    Returns:
        Nothing.

    Errors:
        HbcalError for an unknown kind, an existing file, a folder that is missing or read-only.

    Example:
        >>> check_file(Path("x.doc"), [".csv", ".fits"], overwrite=False)
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The output x.doc is of an unknown kind: use one of .csv, .fits.
    """
    if path.suffix not in suffixes:
        raise HbcalError(f"The output {path} is of an unknown kind: use one of {', '.join(suffixes)}.")
    if path.is_dir() and path.suffix != ".zarr":
        raise HbcalError(f"The output {path} is a folder: --out names a file here.")
    if path.is_file() and path.suffix == ".zarr":
        raise HbcalError(f"The output {path} is a file, where a .zarr is a folder: choose another.")
    if path.exists() and not overwrite:
        raise HbcalError(f"The output {path} exists already: choose another, or give --overwrite.")
    if not path.parent.is_dir():
        raise HbcalError(f"The folder {path.parent} of the output {path.name} does not exist: make it first.")
    if not _writable(path.parent):
        raise HbcalError(f"The folder {path.parent} of the output {path.name} is not writable: choose another.")


def _writable(folder: Path) -> bool:
    """Root may "write" to /proc."""
    return os.access(folder, os.W_OK) and folder.resolve().parts[1:2] != ("proc",)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a folder while writing to it; the lock dies with the process, so a kill leaves none behind.

    Args:
        out: an existing folder.

    Returns:
        A context.

    Errors:
        HbcalError when another process holds it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as d, locked(Path(d)):
        ...     pass
    """
    path = out / ".lock"
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HbcalError(
                f"The output folder {out} is in use by a running fit: wait for it, or choose another."
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def digest(*arrays: np.ndarray, words: Iterable[str] = ()) -> str:
    """Fingerprint of arrays, and of words about them.

    Args:
        arrays: of numbers; their shapes do not count.
        words: such as names.

    Returns:
        A SHA-256 in hexadecimal.

    Errors:
        None.

    Example:
        >>> digest(np.arange(3.0)) == digest(np.arange(6.0)[::2] / 2.0), digest(words="ab") == digest(words="ba")
        (True, False)
    """
    found = hashlib.sha256(" ".join(words).encode())
    for array in arrays:
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def identity(parts: dict[str, Any]) -> str:
    """Fingerprint of everything that decides a run's draws.

    Args:
        parts: JSON values.

    Returns:
        A SHA-256 in hexadecimal.

    Errors:
        TypeError for what JSON cannot hold.

    Example:
        >>> identity({"a": 1}) == identity({"a": 1})
        True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_mark(recipe: str, data: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was started with: its identity, and its parts for whoever compares.

    Args:
        recipe: the recipe's text.
        data: fingerprint of the data.
        settings: of the sampler, JSON values.

    Returns:
        ``identity`` and ``parts``, for ``run.json``.

    Errors:
        None.

    Example:
        >>> sorted(run_mark("", "", {})["parts"])
        ['data', 'hbcal', 'recipe', 'settings']
    """
    parts = {"recipe": recipe, "data": data, "settings": dict(settings), "hbcal": __version__}
    return {"identity": identity(parts), "parts": {**parts, "recipe": identity({"text": recipe})}}


def refuse_another_run(out: Path, mark: Mapping[str, Any]) -> None:
    """Refuse a folder that is neither empty nor holds the same run, begun or complete.

    Args:
        out: of the run.
        mark: ``identity`` of the run and its ``parts``, as its ``run.json`` will hold them.

    Returns:
        Nothing.

    Errors:
        HbcalError when the folder holds another run, naming what differs, or something else.

    Example:
        >>> refuse_another_run(Path("nowhere"), {"identity": "", "parts": {}})
    """
    if (out / "run.json").exists():
        was = json.loads((out / "run.json").read_text())
        if not isinstance(was, dict) or not {"identity", "parts"} <= was.keys():
            raise HbcalError(f"{out / 'run.json'} is not what a run of hbcal writes: choose another --out.")
        if was["identity"] != mark["identity"]:
            differ = [k for k, v in mark["parts"].items() if was["parts"].get(k) != v]
            raise HbcalError(
                f"The run in {out} was started with another {' and '.join(differ)}: resume it with what it was started "
                "with, or choose another --out."
            )
    elif out.is_dir() and any(p.name != ".lock" for p in out.iterdir()):
        raise HbcalError(f"The folder {out} holds something that is not a run of hbcal: choose another --out.")


def read_tree(path: Path, command: str) -> xr.DataTree:
    """The tree of draws that a run keeps.

    Args:
        path: of the file.
        command: that writes it, for the message.

    Returns:
        The tree, in memory.

    Errors:
        HbcalError when the file is damaged.

    Example:
        >>> read_tree(Path("nowhere.nc"), "calibrate")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hbcal._errors.HbcalError: nowhere.nc cannot be read (...): it is damaged; run calibrate again.
    """
    import xarray as xr

    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return tree.load()
    except (OSError, ValueError, KeyError) as error:
        raise HbcalError(f"{path} cannot be read ({error}): it is damaged; run {command} again.") from None


def write_text(path: Path, text: str) -> None:
    """Write a file that is complete or absent.

    Args:
        path: where to.
        text: its content.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as d:
        ...     write_text(Path(d) / "x", "text")
        ...     (Path(d) / "x").read_text()
        'text'
    """
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def put(beside: Path, path: Path) -> None:
    """Give a file that is written its name: what has that name is complete, even after the power fails.

    Args:
        beside: the file, closed.
        path: what it is to be called, in the same folder.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as d:
        ...     _ = (Path(d) / "x.part").write_text("all")
        ...     put(Path(d) / "x.part", Path(d) / "x")
        ...     sorted(p.name for p in Path(d).iterdir())
        ['x']
    """
    with beside.open("rb") as handle:
        os.fsync(handle.fileno())
    beside.replace(path)


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays so that the file is either complete or absent.

    Args:
        path: where to.
        arrays: named numpy arrays.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as d:
        ...     write_npz(Path(d) / "x.npz", {"a": np.ones(2)})
        ...     sorted(p.name for p in Path(d).iterdir())
        ['x.npz']
    """
    # named after the process: the orphan of a killed run may be writing the same chunk, with the same content
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with beside.open("wb") as handle:
        np.savez(handle, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]
    put(beside, path)
