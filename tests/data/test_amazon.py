"""The Amazon releases of 2014, 2018 and 2023 in their real forms: ratings, reviews, metadata, image records."""

import json

import numpy as np
import pytest

from mmfast.data.load import load_dataset
from mmfast.data.readers import find_sources
from mmfast.data.readers.amazon_text import standard_text
from mmfast.data.readers.lines import blocks_of_lines, lines_of
from mmfast.errors import MmfastError
from mmfast.prepare import prepare
from tests.data.sources import all_rows, json_lines, pairs, write_text


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))


def core_rows():
    """(user, item, time) of 7 users and 6 items, all in the 5-core; the second item begins with a zero."""
    items = ["B000000001", "0439893577", *(f"B00000000{i}" for i in range(2, 6))]
    return [(f"A{u}USER", items[(u + s) % 6], 1_300_000_000 + 100 * u + s) for u in range(7) for s in range(6)]


LONE = ("ALONE", "B000000001", 1_300_000_000)


def write_2014(folder, rows=None, name="ratings_Toys.csv"):
    rows = core_rows() if rows is None else rows
    return write_text(folder / name, "".join(f"{u},{i},5.0,{t}\n" for u, i, t in rows))


def record(asin, value):
    return asin.encode() + np.full(4096, value, "<f4").tobytes()


META_2014 = [
    {
        "asin": "B000000001",
        "title": "Blue\nBear",
        "brand": "O'Toys",
        "categories": [["Toys", "Plush"], ["Other"]],
        "description": 'Soft "bear"\nfor kids',
        "imUrl": "http://x/1.jpg",
    },
    {"asin": "B999999999", "title": "not in the data"},
    {"asin": "0439893577", "categories": [["Books"]], "title": "A Book"},
    {"asin": "B000000002", "description": "only words"},
]


@pytest.mark.parametrize("name", ["ratings_Toys.csv", "ratings_Toys.csv.gz"])
def test_2014_ratings(tmp_path, name):
    write_2014(tmp_path / "toys", [LONE, *core_rows()], name)
    data = load_dataset(str(tmp_path / "toys"))
    assert data.manifest["k_core"] == 5 and data.manifest["dropped"]["k_core_rows"] == 1
    assert (data.num_users, data.num_items) == (7, 6) and data.item_id(1) == "0439893577"
    assert data.user_ids.to_list() == [f"A{u}USER" for u in range(7)]
    assert all_rows(data) == sorted((u, i) for u, i, _ in core_rows())
    assert data.manifest["source"]["files"].keys() == {name}


def test_2014_numbers_follow_the_filtered_file(tmp_path):
    first = ("A6USER", "BGONE00000", 1)
    write_2014(tmp_path / "toys", [first, *core_rows()])
    assert load_dataset(str(tmp_path / "toys")).user_id(0) == "A0USER"


def test_2014_repeats_of_a_moment_are_dropped_first(tmp_path):
    rows = core_rows()
    write_2014(tmp_path / "toys", [*rows, rows[0], rows[0]])
    assert load_dataset(str(tmp_path / "toys")).manifest["dropped"]["repeated_rows"] == 2


def test_2014_reviews_meta_and_images(tmp_path):
    folder = tmp_path / "toys"
    rows = core_rows()
    records = [{"reviewerID": u, "asin": i, "reviewText": "x, y", "unixReviewTime": t} for u, i, t in rows]
    write_text(folder / "reviews_Toys_5.json.gz", json_lines(records))
    write_text(folder / "meta_Toys.json.gz", "".join(f"{item!r}\n" for item in META_2014))
    values = {"B000000001": 1.0, "B888888888": 50.0, "0439893577": 3.0, "B000000003": 8.0}
    (folder / "image_features_Toys.b").write_bytes(b"".join(record(a, v) for a, v in values.items()))
    data = load_dataset(str(folder), split="leave-one-out")
    bear, book, words, none = (data.item_index(a) for a in ("B000000001", "0439893577", "B000000002", "B000000004"))
    table = data.item_table()
    assert table["title"].gather([bear, book, words, none]).to_list() == ["Blue Bear", "A Book", "", ""]
    assert table["text"][bear] == 'Blue Bear O\'Toys Toys Plush Soft "bear" for kids'
    assert table["text"][book] == "A Book   Books  " and table["text"][words] == "     only words"
    assert table["text"][none] == "" and table["image"][bear] == "http://x/1.jpg"
    raw = table.select("brand", "categories", "description").row(bear)
    assert raw == ("O'Toys", [["Toys", "Plush"], ["Other"]], 'Soft "bear"\nfor kids')
    assert table.select("brand", "categories", "description").row(none) == (None, None, None)
    image = data.features["image"]
    assert image.shape == (6, 4096) and image[book, 7] == 3 and image[none, 0] == 4
    missing = {data.item_id(i) for i in data.missing["image"]}
    assert missing == {"B000000002", "B000000004", "B000000005"}
    assert data.manifest["features"]["image"]["encoder"] == "amazon-cnn-4096"
    newest = {(data.user_index(u), data.item_index(i)) for u, i, t in rows if t % 100 == 5}
    assert pairs(data.test) == newest


def test_2014_image_file_with_faults(tmp_path):
    folder = tmp_path / "toys"
    write_2014(folder)
    path = folder / "image_features_Toys.b"
    path.write_bytes(record("B000000001", 1.0)[:-1])
    with pytest.raises(MmfastError, match=r"no multiple of 16,394.*cut short"):
        load_dataset(str(folder))
    path.write_bytes(record("BXXXXXXXXX", 1.0))
    with pytest.raises(MmfastError, match="no record of any of the 6 items"):
        load_dataset(str(folder))
    path.write_bytes(record("B000000001", 1.0) + record("0439893577", np.nan))
    with pytest.raises(MmfastError, match=r"'image' of 'image_features_Toys.b' have NaN or infinite values in 1 of 6"):
        load_dataset(str(folder))
    with pytest.raises(MmfastError, match=r"the rows of 'x.npy' name no item"):
        np.save(folder / "x.npy", np.ones((6, 2), np.float32))
        load_dataset(str(folder), features={"text": "x.npy"})


@pytest.mark.parametrize("release", ["2014", "2018"])
def test_arrays_beside_raw_files_are_told(tmp_path, release):
    folder = tmp_path / "toys"
    if release == "2014":
        write_2014(folder)
    else:
        records = [{"reviewerID": u, "asin": i, "unixReviewTime": t} for u, i, t in core_rows()]
        write_text(folder / "Toys.json", json_lines(records))
    np.save(folder / "text.npy", np.ones((6, 2), np.float32))
    heard = []
    assert load_dataset(str(folder), stage=heard.append).modalities == ()
    assert heard[-1].startswith("not taken as features: 'text.npy' has rows that name no item of raw files; prepare")
    with pytest.raises(MmfastError, match=r"text.npy' has rows that name no item of raw files"):
        load_dataset(str(folder), features=["text"])


@pytest.mark.parametrize("release", ["2018", "2023"])
@pytest.mark.parametrize(("at", "block_bytes"), [(1, 32 << 20), (17, 32 << 20), (41, 32 << 20), (30, 200)])
@pytest.mark.parametrize("bad", ['{"asin": "B0', "[1]", "\udcff", '{"unixReviewTime": "noon", "timestamp": "noon"}'])
def test_a_bad_line_of_reviews_is_named(tmp_path, monkeypatch, release, at, block_bytes, bad):
    names = ("reviewerID", "asin", "unixReviewTime") if release == "2018" else ("user_id", "parent_asin", "timestamp")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in core_rows()]
    lines[at] = bad
    lines.insert(3, "")
    path = tmp_path / "toys" / ("Toys.json" if release == "2018" else "Toys.jsonl")
    path.parent.mkdir()
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(blocks_of_lines, "__defaults__", (block_bytes,))
    number = at + 1 + (at >= 3)
    with pytest.raises(
        MmfastError, match=rf"' line {number} cannot be read \(.*\); want one .*: correct or remove the"
    ):
        load_dataset(str(path.parent))


def test_2014_meta_is_never_run(tmp_path):
    folder = tmp_path / "toys"
    write_2014(folder)
    write_text(folder / "meta_Toys.json", "{'asin': 'B000000001', 'title': __import__('os').getcwd()}\n")
    with pytest.raises(MmfastError, match=r"'meta_Toys.json' line 1 \(item B000000001\) cannot be read"):
        load_dataset(str(folder))


def test_2014_files_with_faults(tmp_path):
    write_text(tmp_path / "a" / "ratings_Toys.csv", "A,B,5.0\n")
    with pytest.raises(MmfastError, match="has 3 columns; want four without a header"):
        load_dataset(str(tmp_path / "a"))
    write_text(tmp_path / "b" / "ratings_Toys.csv", "user,item,rating,timestamp\nA,B,5.0,1\n")
    with pytest.raises(MmfastError, match="time 'timestamp' is not a number"):
        load_dataset(str(tmp_path / "b"))
    path = write_text(tmp_path / "c" / "reviews_Toys.json.gz", json_lines([{"reviewerID": "A"}] * 500))
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(MmfastError, match="is cut short or damaged"):
        load_dataset(str(tmp_path / "c"))
    write_text(tmp_path / "d" / "reviews_Toys.json", "{oops\n")
    with pytest.raises(MmfastError, match=r"line 1 cannot be read"):
        load_dataset(str(tmp_path / "d"))
    for name in ("ratings_A.csv", "ratings_B.csv"):
        write_2014(tmp_path / "e", name=name)
    with pytest.raises(MmfastError, match=r"several files ratings_\*.csv \(ratings_A.csv, ratings_B.csv\)"):
        load_dataset(str(tmp_path / "e"))


def test_2018(tmp_path):
    folder = tmp_path / "science"
    records = [{"overall": 5.0, "reviewerID": u, "asin": i, "unixReviewTime": t} for u, i, t in core_rows()]
    write_text(folder / "Science_5.json.gz", json_lines(records))
    meta = [
        {
            "asin": "B000000001",
            "title": "Glue",
            "brand": "Goo",
            "category": ["Industrial", "Tapes"],
            "description": ["Strong.", "Fast."],
            "imageURLHighRes": ["http://x/big.jpg"],
        }
    ]
    write_text(folder / "meta_Science.json.gz", json_lines(meta * 2))
    data = load_dataset(str(folder))
    assert data.manifest["source"]["format"] == "amazon2018" and data.num_items == 6
    glue = data.item_table().row(data.item_index("B000000001"), named=True)
    assert glue["title"] == "Glue" and glue["image"] == "http://x/big.jpg"
    assert glue["text"] == "Glue Goo Industrial Tapes Strong. Fast."


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_2023(tmp_path, ending):
    folder = tmp_path / "beauty"
    records = [
        {"user_id": u, "asin": "variant", "parent_asin": i, "timestamp": t * 1000, "text": "nice"}
        for u, i, t in core_rows()
    ]
    write_text(folder / f"All_Beauty.{ending}", json_lines(records))
    item = {"parent_asin": "0439893577", "title": "Soap", "store": "Suds", "categories": [], "description": []}
    write_text(folder / f"meta_All_Beauty.{ending}", json_lines([{**item, "images": [{"large": "http://x/l.jpg"}]}]))
    data = load_dataset(str(folder))
    assert data.manifest["source"]["format"] == "amazon2023" and data.manifest["k_core"] == 5
    soap = data.item_table().row(data.item_index("0439893577"), named=True)
    assert soap == {"id": "0439893577", "title": "Soap", "text": "Soap Suds   ", "image": "http://x/l.jpg"}
    assert all_rows(data) == sorted((u, i) for u, i, _ in core_rows())


def test_k_core_of_raw_files_may_be_chosen(tmp_path):
    write_2014(tmp_path / "toys", [LONE, *core_rows()])
    out = prepare(tmp_path / "toys", tmp_path / "out", k_core=0)
    assert json.loads((out / "manifest.json").read_text())["num_users"] == 8


def test_ratings_come_before_reviews(tmp_path):
    write_2014(tmp_path / "toys")
    write_text(tmp_path / "toys" / "reviews_Toys_5.json.gz", json_lines([{"reviewerID": "A"}]))
    assert find_sources(tmp_path / "toys").files.keys() == {"ratings"}


def test_standard_text_fills_what_is_missing():
    assert standard_text("T", "B", ["C", "D"], "E\nF") == "T B C D E F"
    assert standard_text(None, None, [], None) == ""
    assert standard_text("T", "", [], None) == "T     "


def test_lines_do_not_depend_on_blocks(tmp_path):
    path = write_text(tmp_path / "lines.txt.gz", "one\n\ntwo\nthree and more\nfour")
    joined = [b"".join(blocks_of_lines(path, size)) for size in (1, 3, 7, 1000)]
    assert set(joined) == {b"one\n\ntwo\nthree and more\nfour"}
    assert list(lines_of(path)) == [(1, b"one"), (3, b"two"), (4, b"three and more"), (5, b"four")]
