"""A half-normal site sampled with a sign that does not matter."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer.reparam import Reparam

SUFFIX = "_folded"


class Fold(Reparam):
    """x ~ HalfNormal(s) as x = |n|, n ~ Normal(0, s): the same posterior without a boundary.

    NumPyro moves on log x. Where the data know only a sum of squares x_1^2 + x_2^2, that is a ridge with a sharp corner
    and two endless arms; in (n_1, n_2) it is a ring.
    """

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, Any]:
        """Replace the site by its signed twin, named ``<name>_folded``."""
        if obs is not None:
            raise ValueError(f"site {name!r} is observed: only a latent site can be folded.")
        fn, expand_shape, event_dim = self._unwrap(fn)
        signed = self._wrap(dist.Normal(0.0, fn.scale), expand_shape, event_dim)
        return None, jnp.abs(numpyro.sample(f"{name}{SUFFIX}", signed))
