"""kmatrix: learnable structured linear maps."""
