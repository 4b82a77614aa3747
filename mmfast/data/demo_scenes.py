"""What each item of the demo catalogue shows: one target object and one to three auxiliary ones, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = (
    "mug",
    "lamp",
    "backpack",
    "chair",
    "teapot",
    "sneaker",
    "guitar",
    "clock",
    "umbrella",
    "bottle",
    "hat",
    "kite",
)
STYLES = ("plain", "striped", "dotted", "checked")
COLOURS = {
    "red": (202, 46, 44),
    "orange": (234, 128, 34),
    "yellow": (240, 202, 60),
    "green": (70, 148, 74),
    "teal": (36, 142, 146),
    "blue": (50, 96, 188),
    "purple": (120, 72, 160),
    "pink": (234, 130, 168),
    "white": (242, 240, 236),
    "black": (46, 46, 52),
}
# Props come in the colours listed: None means that the drawing has fixed colours and the text names none.
PROPS: dict[str, tuple[str | None, ...]] = {
    "plant": (None,),
    "book": tuple(COLOURS),
    "spoon": (None,),
    "candle": ("white", "red", "yellow", "pink", "purple"),
    "vase": tuple(COLOURS),
    "apple": ("red", "green", "yellow"),
    "basket": (None,),
    "frame": (None,),
    "cushion": tuple(COLOURS),
    "ball": ("red", "blue", "yellow", "green", "orange"),
    "table": (None,),
    "rug": tuple(COLOURS),
}
SURFACES = ("table", "rug")


@dataclass(frozen=True)
class Thing:
    """One object of a photo and a text; `colour` is None for props with fixed colours, `style` is a name of STYLES."""

    kind: str
    colour: str | None
    style: str


@dataclass(frozen=True)
class Scene:
    """One item: the object that is sold, and the objects that only decorate it."""

    target: Thing
    auxiliaries: tuple[Thing, ...]

    @property
    def things(self) -> tuple[Thing, ...]:
        """The target followed by the auxiliaries: the order of every list about the scene's objects."""
        return (self.target, *self.auxiliaries)


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of one part of a catalogue, independent of how many others were drawn before."""
    return np.random.default_rng([seed, *key])


def draw_scenes(seed: int, num_items: int) -> list[Scene]:
    """Draw what `num_items` items show; kinds take turns so that a small catalogue has them all."""
    rng = stream(seed, 0)
    kinds = rng.permutation(np.arange(num_items) % len(KINDS))
    colour_odds = rng.dirichlet(np.full(len(COLOURS), 8.0))
    return [_draw_scene(rng, KINDS[kind], colour_odds) for kind in kinds]


def _draw_scene(rng: np.random.Generator, kind: str, colour_odds: np.ndarray) -> Scene:
    colours = tuple(COLOURS)
    style = STYLES[rng.choice(len(STYLES), p=(0.34, 0.24, 0.22, 0.20))]
    target = Thing(kind, colours[rng.choice(len(colours), p=colour_odds)], style)
    count = int(rng.choice((1, 2, 3), p=(0.45, 0.40, 0.15)))
    # No kind occurs twice in a scene, so that a noun of the text means one object of the photo.
    others = [name for name in (*KINDS, *PROPS) if name != kind]
    odds = np.array([1.0 if name in KINDS else 1.6 for name in others])
    chosen = rng.choice(len(others), size=count, replace=False, p=odds / odds.sum())
    auxiliaries = [_draw_auxiliary(rng, others[index]) for index in chosen]
    # A photo has room for one surface below the target and one thing on either side of it.
    surfaces = [thing for thing in auxiliaries if thing.kind in SURFACES][:1]
    standing = [thing for thing in auxiliaries if thing.kind not in SURFACES][:2]
    return Scene(target, tuple(thing for thing in auxiliaries if thing in surfaces or thing in standing))


def _draw_auxiliary(rng: np.random.Generator, kind: str) -> Thing:
    choices = PROPS.get(kind, tuple(COLOURS))
    colour = choices[int(rng.integers(len(choices)))]
    style = STYLES[int(rng.integers(len(STYLES)))] if kind in KINDS or kind in ("cushion", "rug") else "plain"
    return Thing(kind, colour, style)
