"""The fast transforms as exact members: Fourier, cosine, Hadamard, convolution, permutation.

Every function makes one matrix, exact up to rounding and of any size its definition allows, whose numbers are
parameters: training goes on from there.
"""

from kmatrix.transforms.convolution import circulant as circulant
from kmatrix.transforms.convolution import circulant_chain as circulant_chain
from kmatrix.transforms.convolution import conv1d as conv1d
from kmatrix.transforms.convolution import conv2d as conv2d
from kmatrix.transforms.convolution import hankel as hankel
from kmatrix.transforms.convolution import toeplitz as toeplitz
from kmatrix.transforms.convolution import toeplitz_chain as toeplitz_chain
from kmatrix.transforms.cosine import dct as dct
from kmatrix.transforms.cosine import dst as dst
from kmatrix.transforms.cosine import idct as idct
from kmatrix.transforms.cosine import idst as idst
from kmatrix.transforms.fourier import dft as dft
from kmatrix.transforms.fourier import dft2 as dft2
from kmatrix.transforms.fourier import hartley as hartley
from kmatrix.transforms.fourier import idft as idft
from kmatrix.transforms.hadamard import hadamard as hadamard
from kmatrix.transforms.hadamard import walsh as walsh
from kmatrix.transforms.permutation import bit_reversal as bit_reversal
from kmatrix.transforms.permutation import permutation as permutation
from kmatrix.transforms.permutation import stride as stride
