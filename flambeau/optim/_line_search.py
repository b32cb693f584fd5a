"""The line search of L-BFGS, which finds a step length that satisfies the strong Wolfe conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Point", "strong_wolfe"]

_DECREASE = 1e-4  # c₁: how much of the decrease that the slope promises has to come
_FLATTENING = 0.9  # c₂: to how much of itself the slope has to fall


class Point(NamedTuple):
    """What is known of the function at a step length."""

    length: float
    loss: float
    gradient: Any
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], Point], start: Point, length: float, reach: float, tolerance: float, most: int
) -> tuple[Point, int]:
    """A point where the loss is low enough and the slope flat enough, or the best that was met, and the number of evaluations.

    Bracketing by growing steps, then zooming in, as PyTorch's `_strong_wolfe` does it, step by step.

    Args:
        evaluate: the function along the line.
        start: the point of length 0.
        length: the first step length.
        reach: the largest element of the direction.
        tolerance: how small an interval is not searched any more.
        most: how often to go on.

    Source: Nocedal, Wright: Numerical Optimization, algorithms 3.5 and 3.6.
    """
    bracket, tried, done = _bracket(evaluate, start, length, most)
    if not done:
        tried = _zoom(evaluate, start, bracket, reach, tolerance, tried, most)
    return bracket[0 if len(bracket) == 1 else _order(bracket)[0]], tried + 1


def _bracket(
    evaluate: Callable[[float], Point], start: Point, length: float, most: int
) -> tuple[list[Point], int, bool]:
    """Two points around one that will do, or one that does."""
    before, point = start, evaluate(length)
    for tried in range(most):
        if _too_high(point, start) or (tried > 1 and point.loss >= before.loss):
            return [before, point], tried, False
        if _flat_enough(point, start):
            return [point], tried, True
        if point.slope >= 0:
            return [before, point], tried, False
        least = point.length + 0.01 * (point.length - before.length)
        length = _cubic_minimum(before, point, (least, 10 * point.length))
        before, point = point, evaluate(length)
    return [start, point], most, True


def _zoom(
    evaluate: Callable[[float], Point],
    start: Point,
    bracket: list[Point],
    reach: float,
    tolerance: float,
    tried: int,
    most: int,
) -> int:
    """Narrows the bracket until one of its ends will do."""
    low, high = _order(bracket)
    stuck = False
    while tried < most:
        left, right = sorted(point.length for point in bracket)
        if (right - left) * reach < tolerance:
            break
        length = _cubic_minimum(bracket[0], bracket[1], (left, right))
        length, stuck = _away_from_ends(length, left, right, stuck)
        point = evaluate(length)
        tried += 1
        if _too_high(point, start) or point.loss >= bracket[low].loss:
            bracket[high] = point
            low, high = _order(bracket)
            continue
        done = _flat_enough(point, start)
        if not done and point.slope * (bracket[high].length - bracket[low].length) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = point
        if done:
            break
    return tried


def _too_high(point: Point, start: Point) -> bool:
    return point.loss > start.loss + _DECREASE * point.length * start.slope


def _flat_enough(point: Point, start: Point) -> bool:
    return abs(point.slope) <= -_FLATTENING * start.slope


def _order(bracket: list[Point]) -> tuple[int, int]:
    """Which end of the bracket is the lower one, and which the other."""
    return (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)


def _away_from_ends(length: float, left: float, right: float, stuck: bool) -> tuple[float, bool]:
    """The next length to try, kept from creeping along an end, and whether it is close to one for the first time."""
    margin = 0.1 * (right - left)
    if not min(right - length, length - left) < margin:
        return length, False
    if stuck or length >= right or length <= left:
        return (right - margin if abs(length - right) < abs(length - left) else left + margin), False
    return length, True


def _cubic_minimum(one: Point, other: Point, bounds: tuple[float, float]) -> float:
    """Where the cubic through two points with their slopes has its minimum, within bounds; their middle, if it has none."""
    # Points that coincide or are infinite give infinities and NaNs, as with PyTorch's tensors.
    with np.errstate(all="ignore"):
        (x1, f1, _, g1), (x2, f2, _, g2) = (Point(*_as_numpy(point)) for point in (one, other))
        inner = g1 + g2 - 3 * (f1 - f2) / (x1 - x2)
        square = inner**2 - g1 * g2
        if not square >= 0:
            return (bounds[0] + bounds[1]) / 2
        root = np.sqrt(square)
        if x1 <= x2:
            length = x2 - (x2 - x1) * ((g2 + root - inner) / (g2 - g1 + 2 * root))
        else:
            length = x1 - (x1 - x2) * ((g1 + root - inner) / (g1 - g2 + 2 * root))
    return min(max(float(length), bounds[0]), bounds[1])


def _as_numpy(point: Point) -> tuple[Any, Any, None, Any]:
    return np.float64(point.length), np.float64(point.loss), None, np.float64(point.slope)
