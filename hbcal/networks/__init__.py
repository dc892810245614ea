"""Flax networks and how they are trained. Nothing here knows of files, surveys or jobs."""
