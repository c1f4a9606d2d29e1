"""Measuring speed, for ``kmatrix bench``: all in one process, turn by turn, and checked before any clock starts."""
