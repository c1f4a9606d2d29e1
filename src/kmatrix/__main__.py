"""``python -m kmatrix``, the command; ``torchrun -m kmatrix`` starts it in several processes."""

from kmatrix.cli import main

if __name__ == "__main__":
    main()
