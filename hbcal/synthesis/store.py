"""Spectra as a file of the plain container: complete or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError
from hbcal.folder import write_npz
from hbcal.spectra.container import Spectra


def write_container(path: Path, spectra: Spectra, provenance: Mapping[str, Any]) -> None:
    """Write an ``.npz`` that `hbcal.spectra.container.read_spectra` reads, with where it came from.

    Args:
        path: the file.
        spectra: what it holds.
        provenance: JSON values, kept as text in the array ``provenance``.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> from hbcal.spectra.container import read_spectra
        >>> none = np.zeros((1, 0))
        >>> one = Spectra(np.arange(2.0), np.ones((1, 2)), np.ones((1, 2)), np.array(["sun"]), none, none, ())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_container(Path(folder) / "x.npz", one, {"made_by": "me"})
        ...     read_spectra([Path(folder) / "x.npz"]).star, read_provenance(Path(folder) / "x.npz")
        (array(['sun'], dtype='<U3'), {'made_by': 'me'})
    """
    arrays = {name: getattr(spectra, name) for name in ("wave", "flux", "flux_err", "star")}
    if spectra.label_names:
        arrays |= {"labels": spectra.labels, "labels_err": spectra.labels_err}
        arrays["label_names"] = np.array(spectra.label_names)
    if spectra.meta_names:
        arrays |= {"meta": spectra.meta, "meta_names": np.array(spectra.meta_names)}
    write_npz(path, arrays | {"provenance": np.array(json.dumps(provenance, sort_keys=True))})


def read_provenance(path: Path) -> dict[str, Any]:
    """Read back where a file of spectra came from.

    Args:
        path: an ``.npz`` of `write_container`.

    Returns:
        JSON values; empty where the file says nothing.

    Errors:
        HbcalError for a file that cannot be read.

    Example:
        >>> read_provenance(Path("nowhere.npz"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: nowhere.npz is no file of spectra.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return json.loads(str(data["provenance"])) if "provenance" in data.files else {}
    except Exception:  # a damaged archive fails in many ways
        raise HbcalError(f"{path} is no file of spectra.") from None
