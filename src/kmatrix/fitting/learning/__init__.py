"""Learning the numbers of any structure by gradient.

``gradient`` is the method (``learn``); ``race`` trains many random starts at once, ``descent`` holds the optimisers,
and ``harden`` rounds relaxed permutations.
"""
