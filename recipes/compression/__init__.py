"""Whole models compressed to a half and a quarter: quality and time, beside truncated SVDs.

Scripts of their own, each a module: `python -m recipes.compression.compare --help`.
"""
