"""The fast transforms as exact members: Fourier, cosine, Hadamard, convolution, permutation."""
