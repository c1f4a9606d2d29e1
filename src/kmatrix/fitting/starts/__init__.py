"""Where a fit into a named structure begins: members near the target that need no learning.

``by_structure`` says what there is for which family; ``kaleidoscope``, ``orthogonal`` and ``fastfood`` make them.
"""
