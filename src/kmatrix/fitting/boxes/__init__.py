"""Dense in, a sum of rank-one boxes out (``km.GBLR``): ``fit`` is what is called, ``search`` tries the starts.

``tilings`` and ``pursuit`` make starts; ``descent`` improves them with ``sweep`` (one box after the other, segments
included), ``unmix`` (pairs of boxes), ``refit`` (all vectors) and ``trim`` (the cost). ``terms`` and ``intervals`` are
what they work on.
"""
