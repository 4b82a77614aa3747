"""Titles and descriptions of the demo catalogue, with the place of every object's noun in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mmfast.data import demo_words as words
from mmfast.data.demo_scenes import SURFACES, Scene, Thing

# Nouns travel through the templates between private-use characters: object n opens with OPEN + n and closes with CLOSE.
OPEN, CLOSE = 0xE000, "\ue0ff"
SMALL_WORDS = {"with", "and", "on", "to", "for"}
DETAIL_ODDS = (0.8, 0.8, 0.6)  # how often a description has a sentence about colour, style and use
Span = tuple[int, int]


@dataclass(frozen=True)
class ItemText:
    """An item's texts; `nouns` and the spans follow the scene's things, a span is (start, end) of its first mention."""

    title: str
    description: str
    nouns: tuple[str, ...]
    title_spans: tuple[Span | None, ...]
    description_spans: tuple[Span | None, ...]


@dataclass(frozen=True)
class _Naming:
    """The words chosen for one thing of one item, so that its title and description agree."""

    noun: str
    colour: str
    style: str
    material: str


def write_texts(scene: Scene, rng: np.random.Generator) -> ItemText:
    """Write the title and the description of one item: both name the target, an auxiliary may come first."""
    names = tuple(_name(thing, n == 0, rng) for n, thing in enumerate(scene.things))
    title, title_spans = _locate(_title(scene, names, rng), len(names))
    description, description_spans = _locate(_description(scene, names, rng), len(names))
    return ItemText(title, description, tuple(name.noun for name in names), title_spans, description_spans)


def _name(thing: Thing, is_target: bool, rng: np.random.Generator) -> _Naming:
    known = words.KIND_WORDS[thing.kind]
    unusual = is_target and len(known.nouns) > 1 and rng.random() < 0.25
    noun = _pick(known.nouns[1:], rng) if unusual else known.nouns[0]
    colour = "" if thing.colour is None else _pick(words.COLOUR_WORDS[thing.colour], rng)
    style = _pick(words.STYLE_WORDS[thing.style], rng) if is_target or thing.style != "plain" else ""
    return _Naming(noun, colour, style, _pick(known.materials, rng))


def _title(scene: Scene, names: tuple[_Naming, ...], rng: np.random.Generator) -> str:
    standing, ground = _groups(scene)
    if ground is not None and (not standing or rng.random() < 0.4):
        template = _pick(words.SURFACE_TITLES, rng)
    else:
        template = _pick(words.TITLES, rng)
    title = _fill(template, scene, names, rng)
    return _capital(_title_case(title) if rng.random() < 0.65 else title)


def _description(scene: Scene, names: tuple[_Naming, ...], rng: np.random.Generator) -> str:
    standing, ground = _groups(scene)
    sentences: list[str] = []
    if standing and rng.random() < 0.3:
        sentences += [_pick(words.COMPANY_FIRST, rng), ""]
    else:
        sentences += [_pick(words.OPENINGS, rng), _pick(words.COMPANY, rng) if standing else ""]
    company = sentences.pop()
    about = [_pick(words.COLOUR_SENTENCES, rng), _pick(words.STYLE_SENTENCES[scene.target.style], rng)]
    about.append(_pick(words.KIND_WORDS[scene.target.kind].uses, rng))
    sentences += [sentence for sentence, odds in zip(about, DETAIL_ODDS, strict=True) if rng.random() < odds]
    around = [company, _pick(words.GROUND, rng) if ground is not None else ""]
    sentences += around if rng.random() < 0.5 else around[::-1]
    sentences.append(_pick(words.CLOSINGS, rng))
    return " ".join(_capital(_fill(text, scene, names, rng)) for text in sentences if text)


def _groups(scene: Scene) -> tuple[list[int], int | None]:
    """Return the positions of the auxiliaries that stand beside the target, and of the surface below it or None."""
    positions = range(1, len(scene.things))
    ground = next((n for n in positions if scene.things[n].kind in SURFACES), None)
    return [n for n in positions if n != ground], ground


def _fill(template: str, scene: Scene, names: tuple[_Naming, ...], rng: np.random.Generator) -> str:
    standing, ground = _groups(scene)
    phrases = [_phrase(name, n, rng) for n, name in enumerate(names)]
    text = re.sub(r"\[([^|]*)\|([^]]*)\]", lambda found: found[1 if len(standing) == 1 else 2], template)
    values = {
        "{T}": phrases[0],
        "{t}": _with_article(phrases[0]),
        "{C}": names[0].colour,
        "{I}": words.COLOUR_IMAGES.get(scene.target.colour or "", ""),
        "{N}": _mark(0, names[0].noun),
        "{A}": " and ".join(phrases[n] for n in standing),
        "{a}": " and ".join(_with_article(phrases[n]) for n in standing),
        "{S}": "" if ground is None else phrases[ground],
        "{s}": "" if ground is None else _with_article(phrases[ground]),
    }
    for slot, value in values.items():
        text = text.replace(slot, value)
    return text


def _phrase(name: _Naming, position: int, rng: np.random.Generator) -> str:
    """Return a noun with its adjectives: colour and style always for the target, now and then fewer for the others."""
    is_target = position == 0
    colour = name.colour if is_target or rng.random() < 0.8 else ""
    style = name.style if is_target or rng.random() < 0.6 else ""
    # "frame" alone could be anything; the other nouns stand without their material.
    material = name.material if name.noun == "frame" or rng.random() < (0.7 if is_target else 0.5) else ""
    adjectives = [style, colour, material] if style == "plain" else [colour, style, material]
    return " ".join([*filter(None, adjectives), _mark(position, name.noun)])


def _with_article(phrase: str) -> str:
    first = re.sub(r"[^a-z]", "", phrase)[0]
    return f"{'an' if first in 'aeiou' else 'a'} {phrase}"


def _mark(position: int, noun: str) -> str:
    return f"{chr(OPEN + position)}{noun}{CLOSE}"


def _title_case(text: str) -> str:
    def raise_first(found: re.Match[str]) -> str:
        return found[0] if found[0] in SMALL_WORDS else found[0].capitalize()

    return re.sub(r"[a-z]+", raise_first, text)


def _capital(text: str) -> str:
    return re.sub(r"[A-Za-z]", lambda found: found[0].upper(), text, count=1)


def _locate(text: str, count: int) -> tuple[str, tuple[Span | None, ...]]:
    """Return the text without marks, and where each object's noun stands first in it."""
    spans: list[Span | None] = [None] * count
    plain, at = [], 0
    for piece in re.split(rf"([{chr(OPEN)}-{chr(OPEN + count - 1)}][^{CLOSE}]*{CLOSE})", text):
        word = piece.rstrip(CLOSE)
        if piece.endswith(CLOSE):
            position, word = ord(piece[0]) - OPEN, word[1:]
            spans[position] = spans[position] or (at, at + len(word))
        plain.append(word)
        at += len(word)
    return "".join(plain), tuple(spans)


def _pick(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
