"""Layers that hold structured matrices: drop-ins for ``nn.Linear`` and ``nn.Conv2d``, their scaling, and the swap."""

from kmatrix.nn.attention import MultiheadAttention as MultiheadAttention
from kmatrix.nn.conv import Conv2d as Conv2d
from kmatrix.nn.embedding import Embedding as Embedding
from kmatrix.nn.linear import Linear as Linear
from kmatrix.nn.surgery import Replacement as Replacement
from kmatrix.nn.surgery import Site as Site
from kmatrix.nn.surgery import Skipped as Skipped
from kmatrix.nn.surgery import densify_ as densify_
from kmatrix.nn.surgery import linear_like as linear_like
from kmatrix.nn.surgery import open_attention_ as open_attention_
from kmatrix.nn.surgery import replace_linear_ as replace_linear_
from kmatrix.nn.surgery import survey as survey
from kmatrix.nn.surgery import swap_ as swap_
