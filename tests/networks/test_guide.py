"""The guide is a density, and the one its docstring names."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.stats import multivariate_t

from hbcal.networks.guide import Guide
from hbcal.numerics.importance import DOF


def test_the_density_is_that_of_a_student_t():
    guide = Guide(3, 2, hidden=8, dropout=0.0, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    seen, x = rng.normal(size=(5, 3)).astype("float32"), rng.normal(size=(5, 7, 2)).astype("float32")
    mean, root = map(np.asarray, guide(jnp.asarray(seen)))
    several = guide.log_density(jnp.asarray(x), jnp.asarray(seen))
    alone = guide.log_density(jnp.asarray(x[:, 0]), jnp.asarray(seen))
    for i in range(5):
        shape = np.linalg.inv(root[i].astype(float) @ root[i].T)
        expected = multivariate_t(mean[i], shape, df=DOF).logpdf(x[i])
        np.testing.assert_allclose(several[i], expected, rtol=1e-4)
        np.testing.assert_allclose(alone[i], expected[0], rtol=1e-4)
