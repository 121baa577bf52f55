"""The simulator: speed, sweeps, goodput."""
