"""NumPyro distributions with `log_prob` and `sample`."""
