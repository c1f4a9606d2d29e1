"""Layers that hold structured matrices: drop-ins for ``nn.Linear`` and ``nn.Conv2d``, their scaling, and the swap."""
