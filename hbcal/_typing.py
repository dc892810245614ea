"""Names of the axes, used in every shape annotation.

``n_star`` stars of one block · ``n_slot`` measurements a star can have (a survey, or one of its visits) · ``n_free``
slots whose survey is being calibrated · ``n_term`` design columns of a slot, the zero point first · ``n_coef`` free
coefficients of a label · ``n_seen`` measurements of a star where all stars of a table have equally many ·
``n_hypothesis`` ways in which some of them may be outliers · ``n_survey``, ``n_label``, ``n_draw``, ``n_row`` as they
say. Spectra: ``n_pix`` pixels · ``n_dim`` components of a spectrum · ``n_feature`` numbers that an emulator makes of
labels · ``n_comp`` Gaussians of a mixture.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Double precision everywhere, stated once, here because every module with arrays imports this one: a calibration of
# 10^6 stars is known to more digits than float32 has.
jax.config.update("jax_enable_x64", True)

# containers are built from numpy arrays and travel through JAX as its own
AnyArray = Array | np.ndarray

__all__ = ["AnyArray", "Array", "Bool", "Float", "Int"]
