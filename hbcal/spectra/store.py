"""Arrays in files, a slice of rows at a time: ``.npz``, HDF5 and Zarr behind one face, and their writers."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError

SUFFIXES = (".npz", ".h5", ".hdf5", ".zarr")
N_LETTER = 64  # of text in Zarr, at least: a later piece may have longer ids than the first
FAULTS = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, KeyError, RuntimeError, TypeError)


class Member:
    """One array of an ``.npz``, read forward as a stream: a compressed file of any size needs no memory.

    Attributes:
        shape, dtype: of the array.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive, self._name = archive, name
        self._open()

    def _open(self) -> None:
        """From the start."""
        self._stream, self._at = self._archive.open(self._name), 0
        try:
            major, _ = np.lib.format.read_magic(self._stream)
            header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = header(self._stream)
            if self.dtype.hasobject:
                raise HbcalError(
                    f"The array {self._name.removesuffix('.npy')!r} of {self._archive.filename} holds Python objects, "
                    "which are never unpickled: "
                    "save it as text or numbers, such as with .astype(str) or .astype(float)."
                )
            self._whole = None
            if fortran and len(self.shape) > 1:  # stored by columns: a row is all over the file
                self._whole = np.frombuffer(self._stream.read(), self.dtype).reshape(self.shape, order="F")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    def __getitem__(self, rows: slice) -> np.ndarray:
        if not self.shape:
            return np.frombuffer(self._stream.read(), self.dtype)[0]
        if self._whole is not None:
            return self._whole[rows]
        start, stop, _ = rows.indices(self.shape[0])
        if start < self._at:
            self.close()
            self._open()
        per_row = int(np.prod(self.shape[1:], dtype=int)) * self.dtype.itemsize
        skip = (start - self._at) * per_row
        while skip > 0:
            skip -= len(self._stream.read(min(skip, 1 << 24))) or skip
        raw = self._stream.read((stop - start) * per_row)
        if len(raw) != (stop - start) * per_row:
            raise EOFError("it ends early")
        self._at = stop
        return np.frombuffer(raw, self.dtype).reshape(stop - start, *self.shape[1:])


@contextmanager
def open_store(path: Path) -> Iterator[Mapping[str, Any]]:
    """Open a file of arrays; each has a shape and gives its rows by slice.

    Args:
        path: ``.npz``, ``.h5``, ``.hdf5`` or ``.zarr``.

    Returns:
        A context with name -> array-like, open while it lasts.

    Errors:
        HbcalError for another suffix, an absent or damaged file, or Zarr without the library.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder) / "a.npz", x=np.arange(6.0).reshape(3, 2))
        ...     with open_store(Path(folder) / "a.npz") as store:
        ...         store["x"][1:2].tolist()
        [[2.0, 3.0]]
    """
    if path.suffix not in SUFFIXES:
        raise HbcalError(
            f"{path}: the plain container of spectra is .npz, .h5, .hdf5 or .zarr: write the arrays with numpy.savez."
        )
    if not path.exists():
        raise HbcalError(f"{path}: there is no such file of spectra.")
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive, ExitStack() as streams:
                yield {
                    name.removesuffix(".npy"): streams.enter_context(closing(Member(archive, name)))
                    for name in archive.namelist()
                    if name.endswith(".npy")
                }
        elif path.suffix == ".zarr":
            group = _zarr().open_group(str(path), mode="r")
            yield dict(group.arrays())
        else:
            import h5py

            with h5py.File(path, "r") as file:
                arrays = {key: item for key, item in file.items() if isinstance(item, h5py.Dataset)}
                yield {key: item.asstr() if item.dtype.kind == "O" else item for key, item in arrays.items()}
    except HbcalError:
        raise
    except FAULTS as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise HbcalError(
            f"{path} cannot be read as {path.suffix}, it may be truncated ({told}): write it again."
        ) from None


def _zarr() -> Any:
    """The library of Zarr: optional, since it brings codecs and a cloud client that nothing else here needs."""
    try:
        import zarr
    except ImportError:
        raise HbcalError("Zarr files need the optional library: pip install 'hbcal-surveys[zarr]'.") from None
    return zarr


def write_store(pieces: Iterable[Mapping[str, np.ndarray]], path: Path, by_row: Iterable[str]) -> int:
    """Write arrays piece by piece; the file is complete or absent.

    HDF5 and Zarr grow on disk; a ``.npz`` is joined in memory first, because its header holds the number of rows.

    Args:
        pieces: name -> array; the arrays of `by_row` are appended to, the others are taken from the first piece.
        path: where to; replaced if it exists.
        by_row: names with a row for each star.

    Returns:
        The number of rows written.

    Errors:
        HbcalError for another suffix, or no piece at all; OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_store([{"star": np.array(["a"])}, {"star": np.array(["bc"])}], Path(folder) / "s.h5", ["star"])
        2
    """
    if path.suffix not in SUFFIXES:
        raise HbcalError(f"The output {path} is of an unknown kind: use one of {', '.join(SUFFIXES)}.")
    beside = path.with_name(path.stem + ".part" + path.suffix)
    write = {".npz": _write_npz, ".zarr": _write_zarr}.get(path.suffix, _write_hdf5)
    _remove(beside)
    try:
        n = write(pieces, beside, frozenset(by_row))
        if not n:
            raise HbcalError(f"There is no star to write to {path}.")
        if path.suffix == ".zarr":
            _remove(path)  # a folder cannot be replaced in one step
        os.replace(beside, path)
    finally:
        _remove(beside)
    return n


def stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Rows after rows; those of fewer columns than others end with zeros, which is what no correlation is.

    Args:
        arrays: of one dtype and number of axes.

    Returns:
        All rows.

    Errors:
        None.

    Example:
        >>> stacked([np.ones((1, 1)), np.ones((1, 2))]).tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """
    wide = np.max([array.shape[1:] for array in arrays], axis=0) if arrays[0].ndim > 1 else ()
    if any(array.shape[1:] != tuple(wide) for array in arrays):
        more = [[(0, 0), *((0, int(n - m)) for n, m in zip(wide, a.shape[1:], strict=True))] for a in arrays]
        arrays = [np.pad(array, by) for array, by in zip(arrays, more, strict=True)]
    return np.concatenate(arrays)


def _remove(path: Path) -> None:
    """Whether file, folder or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_npz(pieces: Iterable[Mapping[str, np.ndarray]], path: Path, by_row: frozenset[str]) -> int:
    every = list(pieces)
    if not every:
        return 0
    arrays = {key: stacked([piece[key] for piece in every]) if key in by_row else every[0][key] for key in every[0]}
    arrays = {key: array for key, array in arrays.items() if 0 not in array.shape[1:]}
    np.savez(path, allow_pickle=False, **arrays)
    return sum(len(piece["star"]) for piece in every)


def _write_hdf5(pieces: Iterable[Mapping[str, np.ndarray]], path: Path, by_row: frozenset[str]) -> int:
    import h5py

    n, text = 0, h5py.string_dtype()
    with h5py.File(path, "w") as file:
        for piece in pieces:
            m = len(piece["star"])
            for key, array in piece.items():
                kind = {"dtype": text} if array.dtype.kind == "U" else {}
                value = array.astype(object) if kind else array
                if key not in by_row:
                    if n == 0:
                        file.create_dataset(key, data=value, **kind)
                elif n == 0:
                    # whole spectra, about a megabyte: a slice of rows reads what it needs and no more
                    chunks, most = _chunk(array, 1 << 20), (None,) * array.ndim
                    file.create_dataset(key, data=value, maxshape=most, chunks=chunks, **kind)
                else:
                    file[key].resize((n + m, *map(max, file[key].shape[1:], array.shape[1:])))
                    file[key][(slice(n, None), *map(slice, array.shape[1:]))] = value
            n += m
        for key in [key for key, made in file.items() if 0 in made.shape[1:]]:
            del file[key]
    return n


def _chunk(array: np.ndarray, size: int) -> tuple[int, ...]:
    """As many rows as make about so many bytes."""
    row = [max(1, n) for n in array.shape[1:]]
    return max(1, size // max(1, array.dtype.itemsize * int(np.prod(row, dtype=int)))), *row


def _write_zarr(pieces: Iterable[Mapping[str, np.ndarray]], path: Path, by_row: frozenset[str]) -> int:
    # format 2: text of fixed length has no settled form in format 3
    group, n = _zarr().open_group(str(path), mode="w", zarr_format=2), 0
    for piece in pieces:
        m = len(piece["star"])
        for key, array in piece.items():
            value = array.astype(f"<U{max(N_LETTER, array.dtype.itemsize // 4)}") if array.dtype.kind == "U" else array
            if n > 0 and key in by_row and value.dtype.itemsize > group[key].dtype.itemsize and array.dtype.kind == "U":
                raise HbcalError(f"{path}: {key} has words of more than {N_LETTER} letters: write .h5 instead.")
            if key in by_row and n > 0:
                group[key].resize((n + m, *map(max, group[key].shape[1:], array.shape[1:])))
                group[key][(slice(n, None), *map(slice, array.shape[1:]))] = value
            elif n == 0:
                most = _chunk(value, 1 << 25)
                chunks = (min(max(len(array), 1), 1000, most[0]), *most[1:])
                made = group.create_array(key, shape=value.shape, dtype=value.dtype, chunks=chunks)
                if value.size:
                    made[:] = value
        n += m
    for key in [key for key, made in group.arrays() if 0 in made.shape[1:]]:
        del group[key]
    return n
