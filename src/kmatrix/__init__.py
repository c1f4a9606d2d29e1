"""kmatrix: learnable structured linear maps."""

__version__ = "0.1.0.dev0"
