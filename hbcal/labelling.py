"""Label files of any length: piece by piece, each kept until all are done, so that a kill costs one piece."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xarray as xr

import hbcal
from hbcal._errors import HbcalError
from hbcal.emulator.base import Emulator
from hbcal.emulator.files import MODEL, load_emulator
from hbcal.folder import check_file, write_text
from hbcal.label import BATCH, label_spectra
from hbcal.spectra.container import Spectra, agreeing, join
from hbcal.spectra.formats import iter_any

PIECE = 4 * BATCH  # spectra between two files on disk


def label_files(
    model: str | Path,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    fast: bool = False,
    seed: int = 0,
    keep_draws: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> xr.Dataset:
    """Label the spectra of files, in their order, into one file of the label schema.

    Args:
        model: folder of an emulator.
        files: of the plain container or any survey's format that is known, on the emulator's wavelengths.
        out: an ``.nc``; complete or absent. Beside it ``.<name>.pieces`` holds what is done until all is.
        fast, seed, keep_draws: of `hbcal.label.label_spectra`.
        resume: go on with a labelling that was interrupted; the result is the same to the bit.
        overwrite: whether an existing `out` may be replaced.
        progress: called with lines of text.

    Returns:
        What was written.

    Errors:
        HbcalError for anything wrong with model, spectra or `out`; a star that appears twice is told where
            it does.

    Example:
        >>> import tempfile
        >>> from hbcal.emulator.files import save_emulator
        >>> from hbcal.spectra.container import write_spectra
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     home = Path(folder)
        ...     save_emulator(tiny_emulator(), home / "model", {})
        ...     write_spectra(tiny_spectra(), home / "spectra.npz")
        ...     dict(label_files(home / "model", [home / "spectra.npz"], home / "labels.nc", fast=True).sizes)["star"]
        400
        400
    """
    out, paths = Path(out), [Path(file) for file in files]
    check_file(out, [".nc"], overwrite=overwrite)
    emulator = load_emulator(Path(model))
    pieces = out.with_name(f".{out.name}.pieces")
    mark = {
        "hbcal": hbcal.__version__, "model": _state(Path(model) / MODEL), "spectra": [_state(file) for file in paths],
        "fast": fast, "seed": seed, "keep_draws": keep_draws,
    }  # fmt: skip
    _begin(pieces, mark, resume=resume, overwrite=overwrite)
    n_done = 0
    for at, spectra in enumerate(_pieces(paths)):
        n_done += len(spectra.star)
        piece = pieces / f"{at:06d}.nc"
        if not piece.exists():
            _write(_labelled(emulator, spectra, at, fast, seed, keep_draws), piece)
        progress(f"labelling: {n_done} spectra")
    begun = (xr.load_dataset(path, engine="h5netcdf") for path in sorted(pieces.glob("*.nc")))
    labels = xr.concat(list(begun), "star", data_vars="minimal")
    labels.attrs |= {
        "model": str(model), "spectra": ", ".join(str(file) for file in files), "seed": seed,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    _write(labels, out)
    shutil.rmtree(pieces)
    return labels


def _pieces(files: Sequence[Path]) -> Iterator[Spectra]:
    """Equally long pieces, whatever the files are cut into."""
    held: list[Spectra] = []
    for part in agreeing(iter_any(files)):
        held.append(part)
        while sum(len(each.star) for each in held) >= PIECE:
            whole = join(held)
            yield whole.take(slice(PIECE))
            held = [whole.take(slice(PIECE, None))]
    if held and (rest := join(held)).star.size:
        yield rest


def _labelled(emulator: Emulator, spectra: Spectra, at: int, fast: bool, seed: int, keep_draws: bool) -> xr.Dataset:
    return label_spectra(emulator, spectra, fast=fast, seed=(seed, at), keep_draws=keep_draws)


def _state(path: Path) -> list[Any]:
    """Name, size and time of a file: cheap to compare, where a digest of 10^6 spectra is not."""
    if not path.exists():
        raise HbcalError(f"{path}: there is no such file.")
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _begin(pieces: Path, mark: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """A fresh folder of pieces, or that of the same labelling."""
    stated = pieces / "mark.json"
    if stated.is_file() and not overwrite:
        if not resume:
            raise HbcalError(f"A labelling has begun in {pieces}: go on with --resume, or start anew with --overwrite.")
        was = json.loads(stated.read_text())
        differ = [key for key in mark if was.get(key) != mark[key]]
        if differ:
            raise HbcalError(
                f"The labelling begun in {pieces} had another {' and '.join(differ)}: repeat it as it was, or start "
                "anew with --overwrite."
            )
        return
    shutil.rmtree(pieces, ignore_errors=True)
    pieces.mkdir()
    write_text(stated, json.dumps(mark))


def _write(labels: xr.Dataset, path: Path) -> None:
    """Complete or absent."""
    beside = path.with_name(path.name + ".part")
    labels.to_netcdf(beside, engine="h5netcdf")
    beside.replace(path)


def iter_reasons(labels: xr.Dataset) -> Iterator[str]:
    """How many spectra carry each reason not to trust them.

    Args:
        labels: of the label schema.

    Returns:
        Phrases such as ``12 misfit``, the most frequent first.

    Errors:
        None.

    Example:
        >>> ds = xr.Dataset({"reason": ("star", ["", "misfit", "misfit, k_hat"])})
        >>> list(iter_reasons(ds))
        ['2 misfit', '1 k_hat']
    """
    from collections import Counter

    counted = Counter(word for text in labels["reason"].to_numpy() for word in str(text).split(", ") if word)
    return (f"{n} {word}" for word, n in counted.most_common())
