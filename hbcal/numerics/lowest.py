"""Where a smooth function of few numbers is lowest: JAX's derivatives, SciPy's search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from hbcal._typing import Array, Float

FAILED = 1e12  # an energy beyond all others: a step too long, from which the search turns back
STEPS = 15000


def lowest(
    energy: Callable[[Array], Array], start: Float[np.ndarray, " n"], bounds: Sequence[tuple[float, float]],
    steps: int = STEPS,
) -> Float[np.ndarray, " n"]:  # fmt: skip
    """The lowest point near a start, within bounds.

    Args:
        energy: of (n,); it may fail (not be finite) far from its lowest point.
        start: where to begin.
        bounds: of each number.
        steps: at most.

    Returns:
        The point; the last one where `steps` were not enough.

    Errors:
        None.

    Example:
        >>> lowest(lambda x: ((x - 3.0) ** 2).sum(), np.zeros(2), [(-5.0, 5.0), (-5.0, 2.0)]).round(6).tolist()
        [3.0, 2.0]

    Source: Byrd, Lu, Nocedal and Zhu 1995, SIAM J. Sci. Comput. 16, 1190 (L-BFGS-B).
    """
    both = jax.jit(jax.value_and_grad(energy))

    def objective(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = both(jnp.asarray(at))
        if not np.isfinite(value) or not np.isfinite(slope).all():
            return FAILED, np.zeros(len(at))
        return float(value), np.asarray(slope)

    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    return np.asarray(found.x)
