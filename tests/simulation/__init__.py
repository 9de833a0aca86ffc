"""Whole engines in one process: simulated drivers, a virtual clock, faults by seed, independent checkers."""
