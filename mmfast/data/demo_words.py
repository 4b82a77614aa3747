"""The vocabulary of the demo catalogue's texts: nouns, materials and sentences per kind, colours, styles, templates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KindWords:
    """How the texts speak of one kind: nouns (the first is the usual one), materials, and sentences about its use."""

    nouns: tuple[str, ...]
    materials: tuple[str, ...]
    uses: tuple[str, ...] = ()


KIND_WORDS = {
    "mug": KindWords(
        ("mug", "cup"),
        ("ceramic", "stoneware", "enamel"),
        (
            "It holds 350 ml of coffee and is safe in the dishwasher.",
            "The wide handle stays cool while you drink.",
            "The glaze is free of lead and resists scratches.",
        ),
    ),
    "lamp": KindWords(
        ("lamp",),
        ("bedside", "desk", "linen"),
        (
            "The shade spreads a warm, even light.",
            "It takes a standard bulb and comes with a switch on the cord.",
            "The heavy base keeps it steady on any surface.",
        ),
    ),
    "backpack": KindWords(
        ("backpack", "rucksack"),
        ("canvas", "nylon", "waxed"),
        (
            "There is room for a laptop and a change of clothes.",
            "The padded straps stay comfortable on long walks.",
            "A zipped pocket keeps your keys within reach.",
        ),
    ),
    "chair": KindWords(
        ("chair",),
        ("wooden", "upholstered", "oak"),
        (
            "The seat is firm, and the back supports you through a long dinner.",
            "It carries up to 120 kg and needs no tools to assemble.",
            "Felt pads under the legs protect your floor.",
        ),
    ),
    "teapot": KindWords(
        ("teapot", "pot"),
        ("porcelain", "stoneware", "glazed"),
        (
            "It brews four generous servings and pours without a drip.",
            "The lid stays in place when you tilt it.",
            "A fine strainer inside the spout holds back the leaves.",
        ),
    ),
    "sneaker": KindWords(
        ("sneaker", "trainer"),
        ("canvas", "suede", "running"),
        (
            "The rubber sole grips well on wet streets.",
            "A soft lining makes it comfortable from the first day.",
            "It runs true to size, and the laces are included.",
        ),
    ),
    "guitar": KindWords(
        ("guitar",),
        ("acoustic", "maple", "travel"),
        (
            "The tone is bright, and the neck is easy on small hands.",
            "It arrives tuned, with a spare set of strings.",
            "Beginners will like the low action.",
        ),
    ),
    "clock": KindWords(
        ("clock",),
        ("alarm", "twin-bell", "metal"),
        (
            "The bells are loud enough for heavy sleepers.",
            "The hands move without ticking, so nights stay quiet.",
            "One battery lasts for about a year.",
        ),
    ),
    "umbrella": KindWords(
        ("umbrella", "parasol"),
        ("folding", "windproof", "nylon"),
        (
            "The ribs bend in a storm and spring back into shape.",
            "The curved handle hangs on any arm.",
            "It dries quickly and opens with one push.",
        ),
    ),
    "bottle": KindWords(
        ("bottle", "flask"),
        ("steel", "insulated", "glass"),
        (
            "It keeps drinks cold for a day and hot for twelve hours.",
            "The screw cap seals tightly, even upside down.",
            "It holds 750 ml and fits most bicycle holders.",
        ),
    ),
    "hat": KindWords(
        ("hat",),
        ("felt", "cotton", "woollen"),
        (
            "The brim shades your eyes without blocking the view.",
            "A soft band inside adjusts to your size.",
            "It folds flat and keeps its shape in a suitcase.",
        ),
    ),
    "kite": KindWords(
        ("kite",),
        ("ripstop", "nylon", "beach"),
        (
            "It lifts off in the lightest breeze.",
            "Thirty metres of line and a winder are included.",
            "The frame snaps together in less than a minute.",
        ),
    ),
    "plant": KindWords(("plant",), ("potted", "leafy", "indoor")),
    "book": KindWords(("book",), ("hardcover", "leather")),
    "spoon": KindWords(("spoon",), ("wooden", "carved")),
    "candle": KindWords(("candle",), ("scented", "wax")),
    "vase": KindWords(("vase",), ("glazed", "glass")),
    "apple": KindWords(("apple",), ("garden",)),
    "basket": KindWords(("basket",), ("wicker", "woven", "picnic")),
    "frame": KindWords(("frame",), ("picture", "photo")),
    "cushion": KindWords(("cushion",), ("velvet", "cotton")),
    "ball": KindWords(("ball",), ("rubber", "beach", "toy")),
    "table": KindWords(("table",), ("wooden", "side", "pine")),
    "rug": KindWords(("rug",), ("woven", "wool", "cotton")),
}

COLOUR_WORDS = {
    "red": ("red", "red", "red", "scarlet"),
    "orange": ("orange", "orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "yellow", "lemon"),
    "green": ("green", "green", "green", "forest green"),
    "teal": ("teal", "teal", "teal", "turquoise"),
    "blue": ("blue", "blue", "blue", "navy"),
    "purple": ("purple", "purple", "purple", "violet"),
    "pink": ("pink", "pink", "pink", "rose"),
    "white": ("white", "white", "white", "ivory"),
    "black": ("black", "black", "black", "jet-black"),
}
STYLE_WORDS = {
    "plain": ("", "", "plain"),
    "striped": ("striped",),
    "dotted": ("dotted", "polka-dot"),
    "checked": ("checked", "gingham"),
}

# {T} is the target with its adjectives, {N} the target's bare noun, {A} the auxiliaries without and {a} with articles,
# {S} the table or rug below, {C} the target's colour,
# {I} what has that colour. Words in brackets depend on the number of auxiliaries: [one|several].
TITLES = (
    "{T} with {A}",
    "{T} with {A}",
    "{T}, shown with {A}",
    "{T} next to {A}",
    "{A} not included: {T}",
    "goes well with {A}: {T}",
    "{T} to match your {A}",
    "{A} beside {T}",
)
SURFACE_TITLES = ("{T} on {S}", "{T} for your {S}", "{S} photo: {T}")
OPENINGS = (
    "This {T} brings a little cheer to every day.",
    "Our {T} is made by hand in a small workshop.",
    "Treat yourself to this {T}.",
    "You will reach for this {T} again and again.",
    "We designed this {T} to last for many years.",
    "Here comes {t} with a character of its own.",
    "The {T} makes a thoughtful gift.",
    "Customers love this {T} for its honest look.",
)
COMPANY = (
    "In the photo the {N} stands next to {a}.",
    "The {N} is shown with {a}, sold separately.",
    "The {A} in the picture [is|are] not included.",
    "{a} [keeps|keep] the {N} company in our photo.",
    "We photographed the {N} beside {a}.",
    "{a} [appears|appear] in the picture for decoration only.",
)
COMPANY_FIRST = (
    "{a} [sets|set] the scene for this {T}.",
    "Next to {a} stands {t}.",
    "{a} [has|have] found a friend: this {T}.",
    "Add {t} to {a} and the corner is complete.",
)
GROUND = (
    "The {N} was photographed on {s}.",
    "{s} sets the {N} off nicely.",
    "We placed the {N} on {s}, which is not for sale.",
)
COLOUR_SENTENCES = (
    "The {C} recalls {I}.",
    "Its {C} is the colour of {I}.",
    "The {C} glows like {I}.",
    "We borrowed the {C} from {I}.",
)
COLOUR_IMAGES = {
    "red": "ripe cherries",
    "orange": "autumn leaves",
    "yellow": "summer sunflowers",
    "green": "fresh moss",
    "teal": "a quiet lagoon",
    "blue": "the evening sea",
    "purple": "wild lavender",
    "pink": "spring blossom",
    "white": "new snow",
    "black": "polished coal",
}
STYLE_SENTENCES = {
    "plain": (
        "The surface is plain, without any pattern.",
        "We kept it plain: no pattern, no print.",
    ),
    "striped": (
        "Bold stripes run across the whole surface.",
        "The stripes meet neatly at every edge.",
    ),
    "dotted": (
        "Round dots are scattered over the whole surface.",
        "The dots give the surface a playful look.",
    ),
    "checked": (
        "A classic check pattern covers the whole surface.",
        "The checks give it a homely look.",
    ),
}
CLOSINGS = (
    "Every {N} ships in a recycled box.",
    "Wipe the {N} clean with a damp cloth.",
    "Returns are free for thirty days.",
    "Colours may differ slightly from your screen.",
    "",
    "",
)
