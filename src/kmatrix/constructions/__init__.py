"""The papers' theorems as code: exact structured forms of permutations, sparse matrices and circuits."""
