"""Strokes of a pen that would have drawn an image of a digit: its middle lines, followed from end to end."""

import numpy as np

_AROUND = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]  # clockwise from north


def strokes(image, threshold=100):
    """Lists of points [x, y], from 0 to 1 of the side, of a uint8 image."""
    left = {(int(r), int(c)) for r, c in np.argwhere(thinned(image > threshold))}
    side, found = len(image), []
    while left:
        ends = [p for p in left if len(_near(p, left)) <= 1]
        line = [min(ends or left)]
        left.remove(line[0])
        while near := _near(line[-1], left):
            line.append(near[0])
            left.remove(near[0])
        found.append([((c + 0.5) / side, (r + 0.5) / side) for r, c in line])
    longest = max(map(len, found))
    return [line for line in found if len(line) > 2 or longest <= 2]


def thinned(ink):
    """The middle lines of some ink: its rim is taken away, from two sides in turn, as long as nothing falls apart."""
    ink = np.pad(ink, 1)
    changed = True
    while changed:
        changed = False
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            around = np.stack([np.roll(ink, (-r, -c), (0, 1)) for r, c in _AROUND])
            count = around.sum(0)
            turns = (~around & np.roll(around, -1, 0)).sum(0)
            rim = ink & (count >= 2) & (count <= 6) & (turns == 1)
            rim &= ~around[list(first)].all(0) & ~around[list(second)].all(0)
            changed |= bool(rim.any())
            ink &= ~rim
    return ink[1:-1, 1:-1]


def _near(point, points):
    """Neighbours that are in a set, those beside before those aslant."""
    r, c = point
    return [
        (r + dr, c + dc)
        for dr, dc in sorted(_AROUND, key=lambda d: abs(d[0]) + abs(d[1]))
        if (r + dr, c + dc) in points
    ]
