"""The supervisor: the small process that starts containers, reaps them, and outlives the engine.

It runs in an interpreter of its own (`python -S -E -I .../supervisor`), so nothing in this package imports anything
but the standard library, and of that only what costs little memory: every container start forks this process, and the
price of a fork is its size. The engine imports `wire` alone, to speak the same language.
"""
