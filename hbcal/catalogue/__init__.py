"""Tables in and out: the only place that knows pandas, pyarrow or astropy tables."""
