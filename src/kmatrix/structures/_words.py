"""Structures in few words, for tables that people read."""

from __future__ import annotations

from kmatrix.structures import GBLR, Chain, Product, Structure, Sum


def brief(structure: Structure | None) -> str:
    """A structure in one short line: chains and compounds by their parts, others without default options.

    Example:
        >>> import kmatrix as km
        >>> brief(km.Chain((km.Permute(6), km.Factor(3, 2, 2, 1), km.Factor(1, 3, 3, 2))))
        'Chain of 2 factors, 1 permutation'
        >>> brief(km.Sum((km.Butterfly(), km.Kaleidoscope(width=2))))
        'Butterfly + Kaleidoscope(width=2)'
    """
    if structure is None:
        return ""
    if isinstance(structure, Chain):
        factors = len(structure.layout(1, 1).factors)
        parts = [_count(factors, "factor"), _count(len(structure.stages) - factors, "permutation")]
        return "Chain of " + ", ".join(part for part in parts if part)
    if isinstance(structure, Product):
        return " × ".join(brief(part) for part in structure.factors)
    if isinstance(structure, Sum):
        return " + ".join(brief(part) for part in structure.terms)
    given = options(structure)
    return type(structure).__name__ + (f"({given})" if given else "")


def options(structure: Structure) -> str:
    """The options of a structure that differ from their defaults, cut where a table would burst."""
    fields = getattr(type(structure), "__dataclass_fields__", {})
    values = {name: getattr(structure, name) for name, f in fields.items()}
    if isinstance(structure, GBLR):
        del values["left"]  # how the numbers are split between the sides
    told = [f"{name}={_short(value)}" for name, value in values.items() if value != fields[name].default]
    text = ", ".join(told)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}" if number else ""
