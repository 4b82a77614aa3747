"""The case study of one item as a self-contained HTML page: what was found, what was chosen, and whom it reached."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from PIL import Image

SIDE = 220  # pixels of the longer side of a picture on the page
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:1.6em}
figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top}
figcaption{font-size:.85em}.target{outline:3px solid #2a7d46}
.word{display:inline-block;text-align:center;margin:0 .25em .6em 0}
.word small{display:block;font-size:.7em;color:#777}.object{background:#eef4fb}.word.target{background:#d9f2e1}
table{border-collapse:collapse}td,th{padding:.15em .8em .15em 0;text-align:left}"""


@dataclass(frozen=True)
class Word:
    """One word of a text: part of speech, relation to its head, and whether it is an object."""

    text: str
    pos: str
    relation: str
    is_object: bool = False


@dataclass(frozen=True)
class MaskShown:
    """One object of a photo: its picture and its cosine with the text target before and after refinement."""

    picture: Image.Image
    before: float
    after: float


@dataclass(frozen=True)
class Case:
    """All that the page tells of one item; -1 stands for no target. reached: heading -> users, original ids."""

    item: str
    title: str
    words: Sequence[Word] = ()
    objects: Mapping[str, float] = field(default_factory=dict)
    """Object -> its share s_txt (Eq. 9), in the order of the text."""
    text_target: int = -1
    photo: Image.Image | None = None
    masks: Sequence[MaskShown] = ()
    image_target: int = -1
    reached: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def case_page(case: Case) -> str:
    """Return the page as HTML without any file beside it.

    >>> "<title>item-7" in case_page(Case("item-7", "Red mug"))
    True
    """
    parts = [f"<h1>{escape(case.item)}: {escape(case.title)}</h1>", *_text_part(case), *_photo_part(case)]
    if case.reached:
        parts.append("<h2>Users who got it</h2>")
    for heading, users in case.reached.items():
        listed = escape(", ".join(users)) or "nobody"
        parts.append(f"<p><b>{escape(heading)}</b> ({len(users)}): {listed}</p>")
    parts += [f"<p>{escape(note)}</p>" for note in case.notes]
    head = f"<meta charset='utf-8'><title>{escape(case.item)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _text_part(case: Case) -> list[str]:
    if not case.objects:
        return ["<p>The item has no text.</p>"]
    names, target = list(case.objects), case.text_target
    chosen = names[target] if target >= 0 else ""
    spans = []
    for word in case.words:
        kind = "word target" if word.is_object and word.text == chosen else "word object" if word.is_object else "word"
        labels = f"<small>{escape(word.pos)}</small><small>{escape(word.relation)}</small>"
        spans.append(f"<span class='{kind}'>{escape(word.text)}{labels}</span>")
    rows = "".join(
        f"<tr><td>{'<b>' * (n == target)}{escape(name)}{'</b>' * (n == target)}</td><td>{share:.3f}</td></tr>"
        for n, (name, share) in enumerate(case.objects.items())
    )
    table = f"<table><tr><th>object</th><th>text target score</th></tr>{rows}</table>"
    return ["<h2>Text: part of speech and relation of every word</h2>", *spans, table]


def _photo_part(case: Case) -> list[str]:
    if case.photo is None:
        return ["<p>The item has no photo.</p>"]
    figures = [f"<h2>Photo and its objects</h2><figure>{_image(case.photo)}<figcaption>the photo</figcaption></figure>"]
    for n, mask in enumerate(case.masks):
        told = f"object {n + 1}: similarity {mask.before:.3f} before, {mask.after:.3f} after refinement"
        told = f"<b>target</b>, {told}" if n == case.image_target else told
        kind = "target" if n == case.image_target else ""
        figures.append(f"<figure>{_image(mask.picture, kind)}<figcaption>{told}</figcaption></figure>")
    return figures


def _image(picture: Image.Image, kind: str = "") -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    small.save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    return f"<img class='{kind}' alt='' width='{SIDE}' src='data:image/png;base64,{data}'>"
