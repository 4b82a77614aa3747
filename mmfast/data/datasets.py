"""The data sets known by name: their published sizes, folder names, and where to get them."""

from __future__ import annotations

from dataclasses import dataclass

from mmfast.registry import DATASETS

AMAZON_2014 = (
    "the 2014 files {files} from the Amazon review data page of the McAuley lab, "
    "or the prepared folder of MMRec ({name}.inter, image_feat.npy, text_feat.npy)"
)


@dataclass(frozen=True)
class Card:
    """Published size of a data set (rows None: not published) and how to get it.

    `aliases` are folder names tried under the data root beside the name itself. `source` says what to download.
    """

    users: int
    items: int
    rows: int | None
    aliases: tuple[str, ...]
    source: str


def _amazon_2014(name: str, category: str, users: int, items: int, rows: int) -> Card:
    files = f"ratings_{category}.csv, meta_{category}.json.gz and image_features_{category}.b"
    return Card(users, items, rows, (f"amazon-{name}",), AMAZON_2014.format(files=files, name=name))


@DATASETS.register("baby")
def baby() -> Card:
    """Amazon Baby 2014, 5-core; 118,551 / 20,559 / 21,682 rows in the split of MMRec."""
    return _amazon_2014("baby", "Baby", 19_445, 7_050, 160_792)


@DATASETS.register("sports")
def sports() -> Card:
    """Amazon Sports and Outdoors 2014, 5-core; 218,409 / 37,899 / 40,029 rows in the split of MMRec."""
    return _amazon_2014("sports", "Sports_and_Outdoors", 35_598, 18_357, 296_337)


@DATASETS.register("clothing")
def clothing() -> Card:
    """Amazon Clothing, Shoes and Jewelry 2014, 5-core; 197,338 / 40,150 / 41,189 rows in the split of MMRec."""
    return _amazon_2014("clothing", "Clothing_Shoes_and_Jewelry", 39_387, 23_033, 278_677)


@DATASETS.register("elec")
def elec() -> Card:
    """Amazon Electronics 2014, 5-core."""
    card = _amazon_2014("elec", "Electronics", 192_403, 63_001, 1_689_188)
    return Card(card.users, card.items, card.rows, ("amazon-elec", "electronics", "amazon-electronics"), card.source)


@DATASETS.register("beauty")
def beauty() -> Card:
    """Amazon Beauty 2014, 5-core."""
    return _amazon_2014("beauty", "Beauty", 22_363, 12_101, 198_502)


@DATASETS.register("microlens")
def microlens() -> Card:
    """MicroLens as used by LIRDRec (Table I); its split rule is not published."""
    source = (
        "MicroLens: the *_pairs.csv, the titles csv, the covers folder and the .npy features from its repository, "
        "or the prepared folder of MMRec (microlens.inter, image_feat.npy, text_feat.npy)"
    )
    return Card(98_129, 17_228, 705_174, ("MicroLens", "microlens-100k", "MicroLens-100k"), source)


@DATASETS.register("scientific")
def scientific() -> Card:
    """Amazon Industrial and Scientific 2018, items with a picture; leave-one-out."""
    source = (
        "interactions.csv.gz, items.csv.gz, text_feat.npy and image_feat.npy of the DeCoRec release, or the 2018 "
        "files Industrial_and_Scientific_5.json.gz and meta_Industrial_and_Scientific.json.gz from the Amazon "
        "review data page of the McAuley lab"
    )
    return Card(2_928, 1_585, None, ("amazon-scientific", "amazon-scientific-clip"), source)
