"""What ``benchmarks/gpu.py`` is made of.

``cases`` says what is measured, ``contenders`` who runs, ``checks`` who is right, ``clock`` and ``measure`` how long it
takes, ``tiles`` tries other plans. ``workers`` does all that in processes that may die, ``session`` leads, and
``results`` and ``picture`` keep and show what came back.
"""
