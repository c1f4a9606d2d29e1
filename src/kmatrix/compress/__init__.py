"""Whole models: choose, fit, measure, swap, heal, lower and save."""
