"""The posterior's mode over the sampled sites of any program: a start for NUTS, a reference for clipping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.initialization import init_to_median, init_to_value
from numpyro.infer.util import initialize_model
from scipy.optimize import minimize

from hbcal.infer.task import Task


class Mode:
    """Finds the mode of a program's log density in unconstrained space (L-BFGS), again and again without recompiling.

    Args:
        task: program, data and start; later calls may change the data, not its shapes.
    """

    def __init__(self, task: Task):
        kwargs = dict(task.kwargs)
        strategy = init_to_value(values=dict(task.start)) if task.start else init_to_median(num_samples=15)
        info = initialize_model(
            jax.random.PRNGKey(0), task.program, init_strategy=strategy, dynamic_args=True,
            model_args=jax.device_put(task.args), model_kwargs=kwargs,
        )  # fmt: skip
        self._at, unravel = ravel_pytree(info.param_info.z)
        self._value_and_grad = jax.jit(
            jax.value_and_grad(lambda flat, args: info.potential_fn(*args, **kwargs)(unravel(flat)))
        )
        self._sites = jax.jit(lambda flat, args: info.postprocess_fn(*args, **kwargs)(unravel(flat)))

    def __call__(self, args: tuple[Any, ...], max_steps: int = 200) -> Mapping[str, np.ndarray]:
        """The mode for these data, started where the last call ended; sites in their own units."""
        if self._at.size:

            def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
                value, grad = self._value_and_grad(flat, args)
                return float(value), np.asarray(grad)

            found = minimize(objective, np.asarray(self._at), jac=True, method="L-BFGS-B", options={"maxiter": max_steps})
            self._at = found.x
        return {k: np.asarray(v) for k, v in self._sites(self._at, args).items()}
