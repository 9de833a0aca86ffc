"""Killing an engine, its supervisor or both at any of the points that a clean run has passed.

engine.py and supervisor/__main__.py run the real programs with a probe beside them; nothing in these knows of it.
"""
