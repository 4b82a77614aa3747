"""Drawings of the demo catalogue's objects as data: each is a short list of flat parts in a unit square, y down."""

from __future__ import annotations

import math

# A part is (paint, primitive, numbers, extra). Paints "body", "shade" and "tint" take the object's own colour, only
# "body" carries its pattern; all others are colours of `FIXED_PAINTS`. Extra is a line width, a corner radius or None.
Part = tuple[str, str, tuple[float, ...], float | None]

FIXED_PAINTS = {
    "wood": (150, 105, 62),
    "bark": (104, 72, 44),
    "metal": (150, 156, 164),
    "dark": (52, 50, 54),
    "cream": (247, 240, 224),
    "leaf": (74, 132, 70),
    "moss": (50, 104, 58),
    "clay": (186, 104, 70),
    "straw": (214, 176, 112),
    "tan": (182, 142, 84),
    "glow": (255, 236, 168),
    "coffee": (92, 58, 38),
    "flame": (250, 170, 52),
    "sky": (168, 208, 230),
}


def _petals(x: float, y: float, radius: float, count: int) -> tuple[Part, ...]:
    """Return leaves fanned out upwards from one point, as triangles with a rounded look."""
    parts: list[Part] = []
    for n in range(count):
        angle = math.pi * (0.12 + 0.76 * n / (count - 1))
        tip = (x + radius * math.cos(angle), y - radius * math.sin(angle))
        side = (0.3 * radius * math.sin(angle), 0.3 * radius * math.cos(angle))
        middle = ((x + tip[0]) / 2, (y + tip[1]) / 2)
        points = (x, y, middle[0] + side[0], middle[1] + side[1], *tip, middle[0] - side[0], middle[1] - side[1])
        parts.append(("leaf" if n % 2 else "moss", "polygon", points, None))
    return tuple(parts)


def _scallops() -> tuple[float, ...]:
    """Return the outline of an umbrella's canopy: a dome above, five arcs below."""
    points: list[float] = []
    for n in range(25):
        angle = math.pi * n / 24
        points += [0.5 - 0.49 * math.cos(angle), 0.53 - 0.48 * math.sin(angle)]
    for n in range(41):
        x = 0.99 - 0.98 * n / 40
        points += [x, 0.53 - 0.055 * abs(math.sin(math.pi * 5 * n / 40))]
    return tuple(points)


TARGET_SHAPES: dict[str, tuple[Part, ...]] = {
    "mug": (
        ("shade", "ring", (0.56, 0.36, 0.97, 0.80), 0.075),
        ("body", "round", (0.10, 0.24, 0.76, 0.99), 0.09),
        ("tint", "ellipse", (0.10, 0.14, 0.76, 0.34), None),
        ("coffee", "ellipse", (0.16, 0.175, 0.70, 0.315), None),
    ),
    "lamp": (
        ("metal", "line", (0.5, 0.40, 0.5, 0.94), 0.05),
        ("dark", "ellipse", (0.27, 0.90, 0.73, 1.0), None),
        ("glow", "ellipse", (0.10, 0.47, 0.90, 0.60), None),
        ("body", "polygon", (0.33, 0.03, 0.67, 0.03, 0.91, 0.53, 0.09, 0.53), None),
        ("shade", "line", (0.09, 0.53, 0.91, 0.53), 0.025),
    ),
    "backpack": (
        ("dark", "ring", (0.37, 0.0, 0.63, 0.24), 0.05),
        ("shade", "round", (0.08, 0.42, 0.30, 0.90), 0.08),
        ("shade", "round", (0.70, 0.42, 0.92, 0.90), 0.08),
        ("body", "round", (0.16, 0.09, 0.84, 0.99), 0.22),
        ("dark", "line", (0.22, 0.47, 0.78, 0.47), 0.022),
        ("shade", "round", (0.26, 0.58, 0.74, 0.92), 0.07),
        ("cream", "line", (0.31, 0.67, 0.69, 0.67), 0.025),
        ("metal", "round", (0.47, 0.65, 0.53, 0.75), 0.02),
    ),
    "chair": (
        ("bark", "line", (0.24, 0.05, 0.24, 0.97), 0.05),
        ("bark", "line", (0.76, 0.05, 0.76, 0.97), 0.05),
        ("body", "round", (0.22, 0.03, 0.78, 0.44), 0.07),
        ("wood", "line", (0.16, 0.66, 0.14, 1.0), 0.06),
        ("wood", "line", (0.84, 0.66, 0.86, 1.0), 0.06),
        ("body", "polygon", (0.22, 0.52, 0.78, 0.52, 0.92, 0.66, 0.08, 0.66), None),
        ("shade", "round", (0.08, 0.655, 0.92, 0.72), 0.02),
    ),
    "teapot": (
        ("shade", "ring", (0.66, 0.36, 0.99, 0.82), 0.065),
        ("shade", "polygon", (0.26, 0.84, 0.02, 0.40, 0.13, 0.37, 0.36, 0.56), None),
        ("body", "ellipse", (0.16, 0.32, 0.82, 0.98), None),
        ("dark", "ellipse", (0.33, 0.94, 0.65, 1.0), None),
        ("tint", "ellipse", (0.32, 0.27, 0.66, 0.41), None),
        ("shade", "ellipse", (0.44, 0.17, 0.54, 0.29), None),
    ),
    "sneaker": (
        (
            "body",
            "polygon",
            (
                0.05,
                0.80,
                0.04,
                0.40,
                0.12,
                0.33,
                0.22,
                0.42,
                0.40,
                0.36,
                0.52,
                0.50,
                0.72,
                0.61,
                0.90,
                0.65,
                0.97,
                0.80,
            ),
            None,
        ),
        ("shade", "polygon", (0.05, 0.80, 0.04, 0.40, 0.12, 0.33, 0.19, 0.40, 0.20, 0.80), None),
        ("cream", "polygon", (0.77, 0.80, 0.80, 0.66, 0.90, 0.66, 0.96, 0.72, 0.97, 0.80), None),
        ("cream", "line", (0.36, 0.47, 0.46, 0.40), 0.03),
        ("cream", "line", (0.43, 0.54, 0.54, 0.47), 0.03),
        ("cream", "line", (0.52, 0.60, 0.63, 0.53), 0.03),
        ("cream", "round", (0.02, 0.78, 0.99, 0.91), 0.05),
        ("dark", "line", (0.04, 0.90, 0.97, 0.90), 0.02),
    ),
    "guitar": (
        ("bark", "polygon", (0.46, 0.10, 0.54, 0.10, 0.54, 0.56, 0.46, 0.56), None),
        ("dark", "polygon", (0.44, 0.0, 0.56, 0.0, 0.545, 0.12, 0.455, 0.12), None),
        ("body", "ellipse", (0.29, 0.38, 0.71, 0.72), None),
        ("body", "ellipse", (0.21, 0.56, 0.79, 1.0), None),
        ("bark", "polygon", (0.46, 0.36, 0.54, 0.36, 0.54, 0.58, 0.46, 0.58), None),
        ("dark", "ellipse", (0.41, 0.56, 0.59, 0.73), None),
        ("bark", "round", (0.38, 0.82, 0.62, 0.87), 0.01),
        ("cream", "line", (0.48, 0.04, 0.48, 0.84), 0.01),
        ("cream", "line", (0.52, 0.04, 0.52, 0.84), 0.01),
    ),
    "clock": (
        ("dark", "line", (0.26, 0.88, 0.20, 0.99), 0.06),
        ("dark", "line", (0.74, 0.88, 0.80, 0.99), 0.06),
        ("shade", "ellipse", (0.14, 0.03, 0.42, 0.27), None),
        ("shade", "ellipse", (0.58, 0.03, 0.86, 0.27), None),
        ("body", "ellipse", (0.07, 0.10, 0.93, 0.96), None),
        ("cream", "ellipse", (0.24, 0.27, 0.76, 0.79), None),
        ("dark", "line", (0.5, 0.53, 0.5, 0.34), 0.03),
        ("dark", "line", (0.5, 0.53, 0.64, 0.60), 0.03),
        ("dark", "ellipse", (0.47, 0.50, 0.53, 0.56), None),
    ),
    "umbrella": (
        ("metal", "line", (0.5, 0.0, 0.5, 0.90), 0.03),
        ("bark", "arc", (0.34, 0.78, 0.515, 0.99), 0.04),
        ("body", "polygon", _scallops(), None),
        ("shade", "line", (0.5, 0.05, 0.31, 0.49), 0.012),
        ("shade", "line", (0.5, 0.05, 0.69, 0.49), 0.012),
    ),
    "bottle": (
        ("body", "polygon", (0.41, 0.16, 0.59, 0.16, 0.60, 0.26, 0.72, 0.42, 0.28, 0.42, 0.40, 0.26), None),
        ("body", "round", (0.28, 0.37, 0.72, 1.0), 0.06),
        ("dark", "round", (0.385, 0.01, 0.615, 0.17), 0.03),
        ("shade", "line", (0.28, 0.42, 0.72, 0.42), 0.02),
        ("tint", "round", (0.325, 0.48, 0.365, 0.90), 0.02),
    ),
    "hat": (
        ("shade", "ellipse", (0.0, 0.62, 1.0, 0.95), None),
        ("body", "ellipse", (0.0, 0.59, 1.0, 0.90), None),
        ("body", "round", (0.24, 0.16, 0.76, 0.78), 0.22),
        ("dark", "polygon", (0.24, 0.60, 0.76, 0.60, 0.77, 0.72, 0.62, 0.76, 0.38, 0.76, 0.23, 0.72), None),
    ),
    "kite": (
        ("dark", "line", (0.5, 0.74, 0.44, 0.82, 0.54, 0.89, 0.46, 0.99), 0.018),
        ("body", "polygon", (0.5, 0.0, 0.87, 0.32, 0.5, 0.76, 0.13, 0.32), None),
        ("shade", "line", (0.5, 0.0, 0.5, 0.76), 0.016),
        ("shade", "line", (0.13, 0.32, 0.87, 0.32), 0.016),
        ("shade", "polygon", (0.36, 0.78, 0.36, 0.87, 0.44, 0.825, 0.52, 0.78, 0.52, 0.87), None),
        ("shade", "polygon", (0.46, 0.85, 0.46, 0.93, 0.54, 0.89, 0.62, 0.85, 0.62, 0.93), None),
    ),
}

PROP_SHAPES: dict[str, tuple[Part, ...]] = {
    "plant": (
        *_petals(0.5, 0.66, 0.62, 7),
        ("clay", "polygon", (0.27, 0.62, 0.73, 0.62, 0.66, 1.0, 0.34, 1.0), None),
        ("bark", "line", (0.25, 0.64, 0.75, 0.64), 0.05),
    ),
    "book": (
        ("shade", "round", (0.04, 0.40, 0.92, 0.98), 0.04),
        ("cream", "polygon", (0.10, 0.84, 0.92, 0.84, 0.92, 0.93, 0.10, 0.93), None),
        ("body", "round", (0.04, 0.36, 0.92, 0.85), 0.04),
        ("cream", "line", (0.28, 0.52, 0.72, 0.52), 0.05),
        ("cream", "line", (0.34, 0.63, 0.66, 0.63), 0.03),
    ),
    "spoon": (
        ("wood", "line", (0.46, 0.36, 0.56, 0.98), 0.07),
        ("wood", "ellipse", (0.30, 0.02, 0.60, 0.42), None),
        ("tan", "ellipse", (0.35, 0.07, 0.55, 0.34), None),
    ),
    "candle": (
        ("flame", "polygon", (0.5, 0.02, 0.57, 0.18, 0.5, 0.28, 0.43, 0.18), None),
        ("dark", "line", (0.5, 0.24, 0.5, 0.34), 0.025),
        ("body", "round", (0.33, 0.32, 0.67, 0.97), 0.04),
        ("metal", "ellipse", (0.20, 0.91, 0.80, 1.0), None),
    ),
    "vase": (
        ("body", "polygon", (0.40, 0.10, 0.60, 0.10, 0.57, 0.30, 0.43, 0.30), None),
        ("body", "ellipse", (0.24, 0.26, 0.76, 0.92), None),
        ("shade", "round", (0.37, 0.88, 0.63, 1.0), 0.02),
        ("tint", "ellipse", (0.36, 0.06, 0.64, 0.15), None),
    ),
    "apple": (
        ("bark", "line", (0.5, 0.22, 0.55, 0.06), 0.05),
        ("leaf", "polygon", (0.55, 0.16, 0.74, 0.04, 0.80, 0.14, 0.66, 0.22), None),
        ("body", "ellipse", (0.10, 0.20, 0.64, 0.96), None),
        ("body", "ellipse", (0.36, 0.20, 0.90, 0.96), None),
    ),
    "basket": (
        ("tan", "ring", (0.18, 0.04, 0.82, 0.86), 0.05),
        ("straw", "polygon", (0.06, 0.48, 0.94, 0.48, 0.82, 0.99, 0.18, 0.99), None),
        ("tan", "line", (0.05, 0.50, 0.95, 0.50), 0.06),
        ("tan", "line", (0.10, 0.66, 0.90, 0.66), 0.03),
        ("tan", "line", (0.14, 0.82, 0.86, 0.82), 0.03),
    ),
    "frame": (
        ("wood", "round", (0.08, 0.02, 0.92, 0.98), 0.03),
        ("cream", "polygon", (0.18, 0.12, 0.82, 0.12, 0.82, 0.88, 0.18, 0.88), None),
        ("sky", "polygon", (0.25, 0.20, 0.75, 0.20, 0.75, 0.80, 0.25, 0.80), None),
        ("moss", "polygon", (0.25, 0.80, 0.42, 0.46, 0.55, 0.66, 0.63, 0.54, 0.75, 0.80), None),
    ),
    "cushion": (
        (
            "body",
            "polygon",
            (
                0.04,
                0.34,
                0.28,
                0.42,
                0.72,
                0.42,
                0.96,
                0.34,
                0.90,
                0.66,
                0.97,
                0.98,
                0.70,
                0.92,
                0.30,
                0.92,
                0.03,
                0.98,
                0.10,
                0.66,
            ),
            None,
        ),
        ("shade", "ellipse", (0.46, 0.62, 0.54, 0.70), None),
    ),
    "ball": (
        ("body", "ellipse", (0.08, 0.14, 0.92, 0.98), None),
        ("cream", "line", (0.16, 0.36, 0.50, 0.50, 0.86, 0.40), 0.05),
    ),
    "table": (
        ("bark", "line", (0.12, 0.10, 0.10, 1.0), 0.06),
        ("bark", "line", (0.88, 0.10, 0.90, 1.0), 0.06),
        ("wood", "round", (0.0, 0.0, 1.0, 0.16), 0.03),
    ),
    "rug": (
        ("cream", "polygon", (0.10, 0.0, 0.90, 0.0, 1.0, 1.0, 0.0, 1.0), None),
        ("body", "polygon", (0.14, 0.06, 0.86, 0.06, 0.94, 0.94, 0.06, 0.94), None),
    ),
}
