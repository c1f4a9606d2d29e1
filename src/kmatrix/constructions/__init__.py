"""The theorems of the kaleidoscope paper as code: K-matrices of stated width and expansion."""

from kmatrix.constructions.algebra import block_diagonal as block_diagonal
from kmatrix.constructions.algebra import inverse as inverse
from kmatrix.constructions.algebra import kronecker as kronecker
from kmatrix.constructions.algebra import product_of as product_of
from kmatrix.constructions.algebra import scale as scale
from kmatrix.constructions.algebra import sum_of as sum_of
from kmatrix.constructions.permutations import permutation as permutation
from kmatrix.constructions.sparse import low_rank as low_rank
from kmatrix.constructions.sparse import sparse as sparse
from kmatrix.constructions.steps import horizontal_step as horizontal_step
from kmatrix.constructions.steps import vertical_step as vertical_step
