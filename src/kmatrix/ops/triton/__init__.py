"""The GPU: one launch for a chain, its vectors staying on the chip, in Triton.

``backend`` is what ``ops.dispatch`` calls; ``plan`` decides, ``packing`` prepares weights, ``launch`` runs; the kernels
are in ``kernels``. Triton itself is imported when something is about to run, and is an optional extra.
"""
