"""What a new structure or kernel is tested with: the conformance suite and a zoo of named matrices."""
