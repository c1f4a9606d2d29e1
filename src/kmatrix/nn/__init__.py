"""Layers that hold structured matrices: drop-ins for ``nn.Linear`` and ``nn.Conv2d``, their scaling, and the swap."""

from kmatrix.nn.attention import MultiheadAttention as MultiheadAttention
from kmatrix.nn.conv import Conv2d as Conv2d
from kmatrix.nn.embedding import Embedding as Embedding
from kmatrix.nn.linear import Linear as Linear
from kmatrix.nn.options import RMSCap as RMSCap
from kmatrix.nn.options import SelfGuidance as SelfGuidance
from kmatrix.nn.options import SelfGuidedLinear as SelfGuidedLinear
from kmatrix.nn.options import remove_rms_caps_ as remove_rms_caps_
from kmatrix.nn.options import rms_cap_ as rms_cap_
from kmatrix.nn.options import self_guide_ as self_guide_
from kmatrix.nn.scaling import multipliers as multipliers
from kmatrix.nn.scaling import param_groups as param_groups
from kmatrix.nn.starts import frobenius_penalty as frobenius_penalty
from kmatrix.nn.starts import identity_start_ as identity_start_
from kmatrix.nn.starts import projected_start_ as projected_start_
from kmatrix.nn.starts import zero_start_ as zero_start_
from kmatrix.nn.surgery import Replacement as Replacement
from kmatrix.nn.surgery import Site as Site
from kmatrix.nn.surgery import Skipped as Skipped
from kmatrix.nn.surgery import dense_layer as dense_layer
from kmatrix.nn.surgery import densify_ as densify_
from kmatrix.nn.surgery import linear_like as linear_like
from kmatrix.nn.surgery import open_attention_ as open_attention_
from kmatrix.nn.surgery import replace_linear_ as replace_linear_
from kmatrix.nn.surgery import survey as survey
from kmatrix.nn.surgery import swap_ as swap_
