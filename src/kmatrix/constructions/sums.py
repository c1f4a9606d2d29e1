"""Sums of K-forms in an expanded space: slots of one vector each, and gates that copy and add."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kmatrix.constructions._inputs import Array
from kmatrix.constructions.factors import ButterflyFactors, direct_sum
from kmatrix.constructions.kform import KForm, with_outer

Gate = tuple[tuple[float, float], tuple[float, float]]

PASS: Gate = ((1, 0), (0, 1))
"""Leave both slots as they are."""
SWAP: Gate = ((0, 1), (1, 0))
"""Exchange both slots."""
COPY: Gate = ((1, 0), (1, 0))
"""Copy the lower slot to the upper one."""
FETCH: Gate = ((0, 1), (0, 1))
"""Copy the upper slot to the lower one."""
ADD: Gate = ((1, 1), (0, 0))
"""Add the upper slot to the lower one, and clear it."""


def sum_forms(forms: Sequence[KForm]) -> KForm:
    """The sum of forms of one shape: m of them have width ``w max(1, ceil(m/2) - 1)`` (Lemma H.5)."""
    size, width = max(form.size for form in forms), max(form.width for form in forms)
    terms = [form.with_size(size).with_width(width) for form in forms]
    if len(terms) == 1:
        return terms[0]
    if len(terms) == 2:
        return put_side_by_side(terms, enter=[(COPY,)], leave=[(ADD,)])
    # Slots of a round: the sum so far, the input, two at work. The first round has no sum yet, the last
    # needs no input any more, so each of them has a third slot to work in; a round that is both works in
    # all four.
    if len(terms) <= 4:
        return put_side_by_side(_four(terms, (0, 1, 2, 3)), enter=_ENTER_FIRST, leave=_LEAVE_LAST)
    rounds = [put_side_by_side(_four(terms[:3], (0, 2, 3)), enter=_ENTER_FIRST, leave=_LEAVE_KEEPING)]
    rest = terms[3:]
    while len(rest) > 3:
        rounds.append(put_side_by_side(_four(rest[:2], (2, 3)), enter=_ENTER_LATER, leave=_LEAVE_KEEPING))
        rest = rest[2:]
    rounds.append(put_side_by_side(_four(rest, (1, 2, 3)), enter=_ENTER_LATER, leave=_LEAVE_LAST))
    return KForm(forms[0].shape, tuple(half for form in rounds for half in form.halves))


# Gates on slots (0, 1), (2, 3) have stride N and those on (0, 2), (1, 3) stride 2N. A round enters through
# stride 2N then N (class B*), and leaves through N then 2N (class B).
_ENTER_FIRST = [(COPY, COPY), (COPY, COPY)]
_ENTER_LATER = [(PASS, COPY), (PASS, FETCH)]
_LEAVE_LAST = [(ADD, ADD), (ADD, ADD)]
_LEAVE_KEEPING = [(PASS, ADD), (ADD, ((1, 0), (0, 0)))]


def _four(terms: Sequence[KForm], at: Sequence[int]) -> list[KForm]:
    """What the four slots do in a round: terms in the slots ``at`` (then zero), the identity elsewhere."""
    shape, size, width = terms[0].shape, terms[0].size, terms[0].width
    one = KForm.of(shape, [ButterflyFactors.identity(size, increasing=True)]).with_width(width)
    nothing = one.scaled(left=np.zeros(size))
    slots = [nothing if k in at else one for k in range(4)]
    for k, term in zip(at, terms, strict=False):
        slots[k] = term
    return slots


def put_side_by_side(
    slots: Sequence[KForm], enter: Sequence[Sequence[Gate]], leave: Sequence[Sequence[Gate]]
) -> KForm:
    """Slots side by side, the gates ``enter`` before them and ``leave`` after them."""
    size, count = slots[0].size, len(slots)
    last = 2 * slots[0].width - 1
    halves = []
    for k in range(last + 1):
        outer: list[tuple[Gate, ...]] = [(PASS,) * (count // 2)] * len(enter)
        if k == 0:
            outer = [tuple(gates) for gates in enter]
        if k == last:
            outer = [tuple(gates) for gates in leave]
        increasing = k % 2 == 1
        order = range(len(outer)) if increasing else reversed(range(len(outer)))
        factors = [_gates(size, level, gates) for level, gates in zip(order, outer, strict=True)]
        halves.append(
            with_outer(direct_sum([slot.halves[k] for slot in slots]), factors, increasing=increasing)
        )
    return KForm(slots[0].shape, tuple(halves))


def _gates(size: int, level: int, gates: Sequence[Gate]) -> Array:
    """The factor of stride ``2**level * size`` in which each gate acts on a pair of slots."""
    blocks = np.asarray(gates, dtype=np.float64)
    if level == 0:  # pairs are neighbours: one block per gate
        return np.repeat(blocks[..., None], size, axis=3)
    return np.repeat(blocks.transpose(1, 2, 0)[None], size, axis=3)
