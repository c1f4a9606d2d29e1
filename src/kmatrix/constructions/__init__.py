"""The theorems of the kaleidoscope paper as code: K-matrices of stated width and expansion."""

from kmatrix.constructions.algebra import block_diagonal as block_diagonal
from kmatrix.constructions.algebra import inverse as inverse
from kmatrix.constructions.algebra import kronecker as kronecker
from kmatrix.constructions.algebra import product_of as product_of
from kmatrix.constructions.algebra import scale as scale
from kmatrix.constructions.algebra import sum_of as sum_of
from kmatrix.constructions.circuits import Gate as Gate
from kmatrix.constructions.circuits import LinearCircuit as LinearCircuit
from kmatrix.constructions.circuits import circuit as circuit
from kmatrix.constructions.circuits import fft_circuit as fft_circuit
from kmatrix.constructions.circuits import prefix_sum_circuit as prefix_sum_circuit
from kmatrix.constructions.kforms import circulant as circulant
from kmatrix.constructions.kforms import dft as dft
from kmatrix.constructions.kforms import fastfood as fastfood
from kmatrix.constructions.kforms import hadamard as hadamard
from kmatrix.constructions.kforms import toeplitz as toeplitz
from kmatrix.constructions.obb import sparse_obb as sparse_obb
from kmatrix.constructions.orthogonal import householder as householder
from kmatrix.constructions.orthogonal import orthogonal as orthogonal
from kmatrix.constructions.orthogonal import universal as universal
from kmatrix.constructions.permutations import permutation as permutation
from kmatrix.constructions.sparse import low_rank as low_rank
from kmatrix.constructions.sparse import sparse as sparse
from kmatrix.constructions.steps import horizontal_step as horizontal_step
from kmatrix.constructions.steps import vertical_step as vertical_step
