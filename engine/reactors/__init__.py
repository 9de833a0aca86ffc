"""Reactors make the world follow the log: `plan` is pure, `perform` calls ports, facts come back as report commands."""
