"""The automatic search: what ``fit`` does without a structure. ``families`` offer members, the ``loop`` judges them."""
