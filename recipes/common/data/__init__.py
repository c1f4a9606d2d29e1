"""Data sets from a user's own copy, in their standard layouts, checked when they are read."""

from .images import Images as Images
from .images import Split as Split
from .images import cifar10 as cifar10
from .images import mnist as mnist
from .images import sign_digits as sign_digits
from .text import Text as Text
from .text import tiny_shakespeare as tiny_shakespeare
