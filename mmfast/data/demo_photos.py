"""Photos of the demo catalogue: objects painted from their drawings on a lit background, with the mask of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mmfast.data.demo_scenes import COLOURS, SURFACES, Scene, Thing
from mmfast.data.demo_shapes import FIXED_PAINTS, PROP_SHAPES, TARGET_SHAPES, Part

PHOTO_SIZE = 128
OVERSAMPLE = 2  # objects are painted this much larger and reduced: smooth edges without an anti-aliasing rasteriser
RELATIVE_SIZE = {"plant": 1.3, "apple": 0.62, "spoon": 0.95, "ball": 0.8, "book": 0.9, "candle": 0.95, "hat": 0.95}
SECOND_COLOUR = {"white": (86, 104, 140), "yellow": (168, 104, 40), "pink": (252, 244, 240)}
BACKDROPS = (
    ((226, 214, 198), (178, 146, 112)),
    ((206, 220, 226), (160, 168, 172)),
    ((236, 226, 206), (204, 182, 150)),
    ((204, 218, 200), (146, 164, 132)),
    ((232, 208, 204), (188, 158, 148)),
    ((196, 214, 236), (118, 158, 98)),
    ((222, 222, 224), (196, 196, 200)),
    ((212, 204, 224), (158, 146, 172)),
)


@dataclass(frozen=True)
class Placement:
    """Where a thing stands: its size in pixels, the middle of its foot, and whether it is before the target."""

    width: int
    height: int
    x: float
    foot: float
    in_front: bool


def draw_photo(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a photo uint8 [128, 128, 3] and the visible mask of each thing, bool [things, 128, 128]."""
    canvas = _backdrop(rng)
    places = _arrange(scene, rng)
    order = sorted(range(len(places)), key=lambda n: _depth(scene.things[n], places[n], n))
    masks = np.zeros((len(places), PHOTO_SIZE, PHOTO_SIZE), dtype=bool)
    for n in order:
        sprite = paint_thing(scene.things[n], places[n].width, places[n].height, rng)
        left = round(places[n].x - sprite.width / 2)
        top = round(places[n].foot - sprite.height)
        if scene.things[n].kind != "rug":
            _cast_shadow(canvas, places[n])
        layer = Image.new("L", canvas.size)
        layer.paste(sprite.getchannel("A"), (left, top))
        canvas.paste(sprite, (left, top), sprite)
        visible = np.asarray(layer) > 127
        masks &= ~visible
        masks[n] = visible
    return _expose(canvas, rng), masks


def paint_thing(thing: Thing, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Paint one thing as an RGBA picture of about width x height pixels, turned and mirrored a little."""
    size = (width * OVERSAMPLE, height * OVERSAMPLE)
    shape = TARGET_SHAPES.get(thing.kind) or PROP_SHAPES[thing.kind]
    base = _vary(COLOURS[thing.colour or "white"], rng)
    cloth = None if thing.style == "plain" else _pattern(thing, base, size, rng)
    flat = {"body": base, "shade": _mix(base, (0, 0, 0), 0.28), "tint": _mix(base, (255, 255, 255), 0.35)}
    sprite, alpha = Image.new("RGB", size, FIXED_PAINTS["dark"]), Image.new("L", size)
    for part in shape:
        if part[0] == "body" and cloth is not None:
            stencil = Image.new("L", size)
            _draw_part(stencil, part, 255)
            sprite.paste(cloth, (0, 0), stencil)
        else:
            _draw_part(sprite, part, flat.get(part[0]) or FIXED_PAINTS[part[0]])
        _draw_part(alpha, part, 255)
    sprite.putalpha(alpha)
    if thing.kind not in SURFACES:
        if rng.random() < 0.5:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sprite = sprite.rotate(float(rng.uniform(-7, 7)), Image.Resampling.BILINEAR, expand=True)
    return _round_off(sprite.reduce(OVERSAMPLE))


def _draw_part(picture: Image.Image, part: Part, fill: int | tuple[int, ...]) -> None:
    """Draw one part of a shape, scaled to the picture, in one colour."""
    _, primitive, numbers, extra = part
    draw = ImageDraw.Draw(picture)
    scaled = [value * picture.size[n % 2] for n, value in enumerate(numbers)]
    width = max(1, round((extra or 0) * min(picture.size)))
    if primitive == "polygon":
        draw.polygon(scaled, fill=fill)
    elif primitive == "ellipse":
        draw.ellipse(scaled, fill=fill)
    elif primitive == "ring":
        draw.ellipse(scaled, outline=fill, width=width)
    elif primitive == "round":
        draw.rounded_rectangle(scaled, radius=width, fill=fill)
    elif primitive == "arc":
        draw.arc(scaled, 0, 180, fill=fill, width=width)
    else:
        draw.line(scaled, fill=fill, width=width, joint="curve")


def _pattern(thing: Thing, base: tuple[int, ...], size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return the cloth of a thing's body: its colour with stripes, dots or checks of a second one."""
    period = max(rng.uniform(0.17, 0.23) * min(size), 8.0 * OVERSAMPLE)
    x = np.arange(size[0], dtype=np.float32)[None, :] / np.float32(period) + np.float32(rng.random())
    y = np.arange(size[1], dtype=np.float32)[:, None] / np.float32(period) + np.float32(rng.random())
    if thing.style == "striped":
        angle = rng.choice((0.0, np.pi / 2, np.pi / 4))
        share = ((x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) % 1 < 0.45).astype(np.float32)
    elif thing.style == "dotted":
        shifted = x + 0.5 * (np.floor(y) % 2)
        share = ((shifted % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.085).astype(np.float32)
    else:
        share = 0.5 * (x % 1 < 0.5).astype(np.float32) + 0.5 * (y % 1 < 0.5)
    second = np.array(SECOND_COLOUR.get(thing.colour or "white", (246, 240, 226)), dtype=np.float32)
    cloth = np.array(base, dtype=np.float32) * (1 - share[..., None]) + second * share[..., None]
    return Image.fromarray(cloth.astype(np.uint8))


def _round_off(sprite: Image.Image) -> Image.Image:
    """Give a flat drawing volume: light from the left, a darker right, and a thin dark edge against the wall."""
    width, height = sprite.size
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    light = 1.04 - 0.13 * across - 0.05 * down - 0.10 * (across + 0.25) ** 2
    alpha = sprite.getchannel("A")
    inner = np.asarray(alpha.filter(ImageFilter.MinFilter(3)), dtype=np.float32)[..., None] / 255
    lit = np.asarray(sprite.convert("RGB"), dtype=np.float32) * light * (0.62 + 0.38 * inner)
    picture = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    picture.putalpha(alpha)
    return picture


def _arrange(scene: Scene, rng: np.random.Generator) -> list[Placement]:
    """Choose a place for every thing: the target near the middle, auxiliaries beside it, a table or rug below it."""
    surface = next((thing.kind for thing in scene.auxiliaries if thing.kind in SURFACES), None)
    size = int(rng.integers(54, 70) if surface == "table" else rng.integers(58, 82))
    x = float(np.clip(rng.normal(64, 8), 46, 82))
    foot = float(rng.uniform(82, 88) if surface == "table" else rng.uniform(100, 116))
    places = [Placement(size, size, x, foot, False)]
    side = int(rng.choice((-1, 1)))
    for thing in scene.auxiliaries:
        if thing.kind == "table":
            wide = int(rng.integers(104, 122))
            places.append(Placement(wide, 46, 64.0, foot + 43, False))
        elif thing.kind == "rug":
            wide = int(rng.integers(100, 124))
            places.append(Placement(wide, 24, 64.0, min(foot + 11, 127.0), False))
        else:
            places.append(_beside(thing, size, x, foot, side, surface, rng))
            side = -side
    return places


def _beside(
    thing: Thing, target_size: int, x: float, foot: float, side: int, surface: str | None, rng: np.random.Generator
) -> Placement:
    """Choose a place next to the target, further back or a little before it."""
    size = int(rng.uniform(32, 50) * RELATIVE_SIZE.get(thing.kind, 1.0))
    away = 0.40 * target_size + 0.36 * size
    middle = float(np.clip(x + side * away * rng.uniform(0.9, 1.15), 0.45 * size, PHOTO_SIZE - 0.45 * size))
    in_front = bool(rng.random() < 0.35)
    step = rng.uniform(1, 4) if surface == "table" else rng.uniform(2, 9)
    return Placement(size, size, middle, min(foot + (step if in_front else -step), 125.0), in_front)


def _depth(thing: Thing, place: Placement, position: int) -> int:
    """Return the painting order: surfaces, then what stands behind the target, the target, what stands before it."""
    if thing.kind in SURFACES:
        return 0
    return 2 if position == 0 else 3 if place.in_front else 1


def _cast_shadow(canvas: Image.Image, place: Placement) -> None:
    shadow = Image.new("L", canvas.size)
    half, y = 0.42 * place.width, place.foot - 1
    ImageDraw.Draw(shadow).ellipse((place.x - half, y - 4, place.x + half + 4, y + 4), fill=110)
    canvas.paste((40, 34, 34), (0, 0), shadow.filter(ImageFilter.GaussianBlur(2.5)))


def _backdrop(rng: np.random.Generator) -> Image.Image:
    """Return a wall over a floor, in one of several tints: plain, panelled, planked, bricked, or one smooth sweep."""
    wall, floor = (_vary(colour, rng) for colour in BACKDROPS[int(rng.integers(len(BACKDROPS)))])
    canvas = Image.new("RGB", (PHOTO_SIZE, PHOTO_SIZE), wall)
    draw = ImageDraw.Draw(canvas)
    horizon = int(rng.integers(70, 98))
    line = _mix(wall, (0, 0, 0), 0.08)
    kind = int(rng.integers(5))
    if kind == 0:
        for x in range(int(rng.integers(20)), PHOTO_SIZE, 20):
            draw.line((x, 0, x, PHOTO_SIZE), fill=line, width=1)
    elif kind == 1:
        for row, y in enumerate(range(0, PHOTO_SIZE, 12)):
            draw.line((0, y, PHOTO_SIZE, y), fill=line)
            for x in range(12 * (row % 2), PHOTO_SIZE, 24):
                draw.line((x, y, x, y + 12), fill=line)
    elif kind == 2:
        window = int(rng.integers(4, 80))
        draw.rectangle((window, 8, window + 40, 54), fill=(214, 232, 244), outline=(250, 250, 250), width=3)
    if kind < 4:
        draw.rectangle((0, horizon, PHOTO_SIZE, PHOTO_SIZE), fill=floor)
        draw.line((0, horizon, PHOTO_SIZE, horizon), fill=_mix(floor, (255, 255, 255), 0.35), width=2)
    return canvas


def _expose(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Light the finished scene: brightness, a warm or cold cast, a bright side, dark corners and film grain."""
    axis = np.linspace(-1, 1, PHOTO_SIZE, dtype=np.float32)
    x, y = axis[None, :, None], axis[:, None, None]
    slope_x, slope_y = rng.uniform(-0.10, 0.10, 2).astype(np.float32)
    light = rng.uniform(0.90, 1.08) + slope_x * x + slope_y * y - 0.05 * (x * x + y * y)
    cast = np.array([1.0, 1.0, 1.0], dtype=np.float32) + rng.uniform(-0.04, 0.04) * np.array([1.0, 0.0, -1.0])
    grain = rng.normal(0.0, rng.uniform(1.0, 3.0), (PHOTO_SIZE, PHOTO_SIZE, 1))
    lit = np.asarray(canvas, dtype=np.float32) * light * cast + grain
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def _vary(colour: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """Return the colour moved by a few steps per channel: no two objects are of exactly one paint."""
    return tuple(int(value) for value in np.clip(np.array(colour) + rng.integers(-12, 13, 3), 0, 255))


def _mix(colour: tuple[int, ...], other: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round((1 - share) * a + share * b) for a, b in zip(colour, other, strict=True))
