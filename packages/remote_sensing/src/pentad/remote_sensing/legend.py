"""What the numbers in a map mean, and in which colours they are shown."""

from __future__ import annotations

from collections.abc import Sequence

from pentad.remote_sensing.tasks import Task

Colour = tuple[int, int, int, int]
Legend = dict[int, tuple[str, Colour]]
"""Value to name and colour (red, green, blue, opacity); values that are not there have no meaning."""

_CLEAR: Colour = (0, 0, 0, 0)
_MASK: Colour = (213, 94, 0, 255)
# Okabe and Ito, Color universal design, 2008; grades from unharmed to destroyed.
_COVERS: tuple[Colour, ...] = (
    (230, 159, 0, 255),
    (0, 158, 115, 255),
    (240, 228, 66, 255),
    (90, 90, 90, 255),
    (213, 94, 0, 255),
    (0, 114, 178, 255),
)
_GRADES: tuple[Colour, ...] = ((0, 158, 115, 255), (240, 228, 66, 255), (230, 159, 0, 255), (190, 30, 30, 255))


def legends(task: Task, classes: Sequence[Sequence[str]]) -> dict[str, Legend]:
    """Return the legend of every map of a task.

    Args:
        task: What was looked for.
        classes: Of each layer, the names of its classes from 1 on.
    """
    words = ("unchanged", "changed") if task.mask == "change" else ("none", task.mask)
    found: dict[str, Legend] = {task.mask: {0: (words[0], _CLEAR), 1: (words[1], _MASK)}}
    for layer, names in zip(task.layers, classes, strict=True):
        colours = _GRADES if layer == "damage" else _COVERS
        found[layer] = {0: (words[0], _CLEAR)}
        found[layer] |= {n: (name, colour) for n, (name, colour) in enumerate(zip(names, colours, strict=False), 1)}
    if "transition" in task.maps:
        count, pairs = len(classes[0]), [(before, after) for before in classes[0] for after in classes[1]]
        found["transition"] = {0: (words[0], _CLEAR)} | {
            code: (f"{before} to {after}", _COVERS[(code - 1) % count])
            for code, (before, after) in enumerate(pairs, start=1)
        }
    return found
