"""hbcal: put stellar surveys on one scale, with the full posterior of the calibration.

Importing this package is cheap: JAX, NumPyro, ArviZ and astropy load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "HbcalError": "hbcal._errors",
    "calibrate": "hbcal.calibration",
    "load_recipe": "hbcal.recipe",
    "open_run": "hbcal.run",
    "simulate": "hbcal.simulation",
}
__all__ = ["HbcalError", "__version__", "calibrate", "load_recipe", "open_run", "simulate"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'hbcal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
