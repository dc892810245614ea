"""Pure functions of arrays, each with its equation and a dense oracle in the tests."""
