"""The GPU, in Triton: a chain in one launch, its vectors on the chip or in the second cache between two factors.

``backend`` is what ``ops.dispatch`` calls, ``segments`` what ``ops.segments_dispatch`` calls. ``plan`` and
``residence`` decide, ``runs`` and ``packing`` prepare weights, ``launch``, ``resident`` and ``backward`` run,
``settled`` holds prepared chains, ``tuning`` measures. Device code is in ``kernels``. Triton itself is imported when
something is about to run, and is an optional extra.
"""
