"""Run any program: NUTS in chunks that survive a kill, a DataTree, a gate of diagnostics. Knows no program by name."""
