"""MMRec, plain and MicroLens folders in their real forms: ids, features, splits, and what is refused."""

import numpy as np
import polars as pl
import pytest

from mmfast.data.load import load_dataset
from mmfast.data.readers import find_sources
from mmfast.errors import MmfastError
from mmfast.prepare import prepare
from tests.data.sources import all_rows, numbered, pairs, plain_rows, write_plain, write_text


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))


def write_mmrec(folder, header="userID\titemID\tx_label", rows=None, features=None):
    rows = rows or [(u, (u + s) % 6, [0, 0, 0, 1, 2][s]) for u in range(5) for s in range(5)]
    write_text(folder / "shop.inter", "\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    for name, array in (features or {}).items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.mark.parametrize("header", ["userID\titemID\tx_label", "userID:token\titemID:token\tx_label:float"])
def test_mmrec_keeps_ids_and_labels(tmp_path, header):
    folder = write_mmrec(tmp_path / "a", header, features={"image_feat": numbered(6, 3), "text_feat": numbered(6, 2)})
    data = load_dataset(str(folder))
    assert data.manifest["source"]["format"] == "mmrec" and data.modalities == ("image", "text")
    assert pairs(data.test) == {(u, (u + 4) % 6) for u in range(5)} and data.features["image"][4, 0] == 5


def test_mmrec_counts_go_to_the_largest_id(tmp_path):
    rows = [(0, 0, 0), (0, 7, 1), (0, 3, 2), (4, 1, 0)]
    data = load_dataset(str(write_mmrec(tmp_path / "a", rows=rows, features={"text_feat": numbered(8, 2)})))
    assert (data.num_users, data.num_items) == (5, 8) and pairs(data.valid) == {(0, 7)}


def test_mmrec_features_must_have_a_row_for_every_item(tmp_path):
    folder = write_mmrec(tmp_path / "a", features={"text_feat": numbered(5, 2)})
    with pytest.raises(
        MmfastError, match=r"'text' of 'text_feat.npy' have 5 rows, for the items 0 to 4, but item 5 has"
    ):
        load_dataset(str(folder))


def test_mmrec_with_words_as_ids_and_features_cannot_be_matched(tmp_path):
    rows = [("ann", f"i{s}", [0, 0, 1, 2][s]) for s in range(4)]
    assert load_dataset(str(write_mmrec(tmp_path / "a", rows=rows))).item_ids.to_list() == ["i0", "i1", "i2", "i3"]
    with pytest.raises(MmfastError, match="nothing says which row belongs to which item"):
        load_dataset(str(write_mmrec(tmp_path / "b", rows=rows, features={"text_feat": numbered(4, 2)})))


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_plain_endings(tmp_path, ending):
    rows = plain_rows()
    if ending == "parquet":
        (tmp_path / "shop").mkdir()
        pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_parquet(
            tmp_path / "shop" / "interactions.parquet"
        )
    else:
        text = "user_id,item_id\n" + "".join(f"{u},{i}\n" for u, i in rows)
        write_text(tmp_path / "shop" / f"interactions.{ending}", text)
    assert all_rows(load_dataset(str(tmp_path / "shop"))) == sorted((str(u), str(i)) for u, i in rows)


def test_plain_words_are_numbered_by_first_appearance(tmp_path):
    rows = [(f"u{9 - u}", f"00{(u * 2 + s) % 7}") for u in range(6) for s in range(5)]
    data = load_dataset(str(write_plain(tmp_path / "shop", rows)))
    assert data.user_ids.to_list() == [f"u{9 - u}" for u in range(6)]
    assert data.item_ids.to_list() == [f"00{i}" for i in range(7)]
    assert all_rows(data) == sorted(rows)


def test_plain_numbers_with_holes_are_renumbered_unless_features_go_by_them(tmp_path):
    rows = [(u * 10, i * 3) for u, i in plain_rows(8, 6, 4)]
    data = load_dataset(str(write_plain(tmp_path / "a", rows)))
    assert (data.num_users, data.num_items) == (8, 6) and data.user_id(1) == "10" and data.item_index("15") == 5
    data = load_dataset(str(write_plain(tmp_path / "b", rows, features={"text_feat": numbered(16, 2)})))
    assert (data.num_users, data.num_items) == (8, 16) and data.item_id(15) == "15"


def test_plain_items_table_gives_rows_titles_and_original_ids(tmp_path):
    folder = write_plain(tmp_path / "shop", features={"text_feat": numbered(11, 2)})
    lines = [f'{i},ASIN{i},"Title, {i}",http://x/{i}.jpg' for i in reversed(range(11))]
    write_text(folder / "items.csv", "item,asin,title,image_url\n" + "\n".join(lines) + "\n")
    write_text(folder / "users.csv.gz", "user,reviewer_id\n" + "".join(f"{u},R{u}\n" for u in range(12)))
    data = load_dataset(str(folder))
    assert data.num_items == 11 and data.item_id(3) == "ASIN3" and data.item_title(3) == "Title, 3"
    assert data.user_index("R7") == 7 and data.features["text"][3, 0] == 4
    assert data.item_table().columns == ["id", "title", "image"] and data.item_table()["image"][3] == "http://x/3.jpg"
    assert data.cold_items.tolist()[-2:] == [9, 10]


def test_plain_items_table_orders_words(tmp_path):
    rows = [(u, "zyxwv"[i % 5]) for u, i in plain_rows(8, 5, 5)]
    folder = write_plain(tmp_path / "shop", rows, features={"text_feat": numbered(5, 2)})
    write_text(folder / "items.csv", "item,title\n" + "".join(f"{c},T{c}\n" for c in "vwxyz"))
    data = load_dataset(str(folder))
    assert data.item_ids.to_list() == list("vwxyz") and data.features["text"][data.item_index("z"), 0] == 5


def test_plain_tables_with_faults(tmp_path):
    folder = write_plain(tmp_path / "a")
    write_text(folder / "items.csv", "item,title\n" + "".join(f"{i},T\n" for i in range(8)))
    with pytest.raises(MmfastError, match=r"item '8' has interactions but no row in 'items.csv' \(1 such items\)"):
        load_dataset(str(folder))
    write_text(folder / "items.csv", "item,title\n" + "".join(f"{i % 8},T\n" for i in range(9)))
    with pytest.raises(MmfastError, match="item id '0' stands for 2 items"):
        load_dataset(str(folder))
    write_text(folder / "items.csv", "name,title\n1,a\n")
    with pytest.raises(MmfastError, match=r"'items.csv' has the columns name, title; want one of item"):
        load_dataset(str(folder))


def test_plain_interactions_with_faults(tmp_path):
    with pytest.raises(MmfastError, match=r"has the columns user, thing; want one of item, item_id"):
        load_dataset(str(write_plain(tmp_path / "a", header="user,thing")))
    with pytest.raises(MmfastError, match="no split column 'fold'; its columns are user, item"):
        load_dataset(str(write_plain(tmp_path / "b")), split_column="fold")
    with pytest.raises(MmfastError, match="time 'noon' is not a number"):
        load_dataset(str(write_plain(tmp_path / "c", [(0, 0, 3), (0, 1, "noon")], header="user,item,time")))
    with pytest.raises(MmfastError, match="the data carry no split column"):
        load_dataset(str(write_plain(tmp_path / "b")), split="column")
    write_text(tmp_path / "d" / "interactions.parquet", "no parquet at all")
    with pytest.raises(MmfastError, match=r"interactions.parquet' cannot be read"):
        load_dataset(str(tmp_path / "d"))
    with pytest.raises(MmfastError, match="no complete interaction"):
        load_dataset(str(write_plain(tmp_path / "e", [("", 1), (2, "")])))


def test_repeats_and_incomplete_rows_are_counted(tmp_path):
    labels = [0, 0, 0, 0, 1, 2] * 12
    rows, labels = [*plain_rows(), (0, 0), (0, 1), ("", 3)], [*labels, 0, 2, 0]
    dropped = load_dataset(str(write_plain(tmp_path / "shop", rows, labels))).manifest["dropped"]
    # (0, 0) stands twice in train; (0, 1) stands in train and in test, which is allowed.
    assert dropped["incomplete_rows"] == 1 and dropped["repeated_rows"] == 1
    assert dropped["repeated_pairs"] == {"train": 0, "valid": 0, "test": 0}


def test_a_pair_bought_twice_is_kept_once_inside_a_part(tmp_path):
    rows = [(u, i, s, [0, 0, 0, 0, 1, 2][s % 6]) for s, (u, i) in enumerate(plain_rows())]
    rows.append((0, 0, 99, 0))
    data = load_dataset(str(write_plain(tmp_path / "shop", rows, header="user,item,time,split")))
    assert data.manifest["dropped"]["repeated_rows"] == 0
    assert data.manifest["dropped"]["repeated_pairs"] == {"train": 1, "valid": 0, "test": 0}


def test_positions_order_a_user_but_are_no_clock(tmp_path):
    rows = [(u, i, 5 - s % 6) for s, (u, i) in enumerate(plain_rows())]
    folder = write_plain(tmp_path / "shop", rows, header="user,item,pos")
    assert pairs(load_dataset(str(folder), split="leave-one-out").test) == {(u, u % 9) for u in range(12)}
    with pytest.raises(MmfastError, match="'pos' only orders the rows of one user; choose user-time"):
        load_dataset(str(folder), split="time")


def test_k_core_renumbers_and_takes_features_along(tmp_path):
    rows = [(99, 8), *[(u, i + 1) for u, i in plain_rows(8, 6, 4)]]
    folder = write_plain(tmp_path / "shop", rows, features={"text_feat": numbered(9, 2)})
    data = load_dataset(str(folder), k_core=3)
    assert (data.num_users, data.num_items) == (8, 6) and data.item_ids.to_list() == [str(i) for i in range(1, 7)]
    assert data.features["text"][:, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert data.manifest["dropped"] | {"k_core_rows": 1, "items": 3} == data.manifest["dropped"]
    with pytest.raises(MmfastError, match="k_core is -1"):
        load_dataset(str(folder), k_core=-1)


@pytest.mark.parametrize("stem", ["audio_feat", "audio_features", "feature_audio", "audio_feature", "feat_audio"])
def test_names_of_feature_files(tmp_path, stem):
    folder = write_plain(tmp_path / "shop", features={stem: numbered(9, 2)})
    np.save(folder / "user_graph_dict.npy", np.array({"a": 1}), allow_pickle=True)
    np.save(folder / "degrees.npy", np.arange(9))
    assert find_sources(folder).features == {"audio": folder / f"{stem}.npy"}
    assert load_dataset(str(folder)).modalities == ("audio",)


def test_a_variant_stands_in_for_a_missing_plain_file(tmp_path):
    folder = write_plain(tmp_path / "shop", features={"text_feat_minilm": numbered(9, 2, np.float16)})
    about = load_dataset(str(folder)).manifest["features"]["text"]
    assert about["encoder"] == "minilm" and about["source"] == "text_feat_minilm.npy" and about["dtype"] == "float16"
    np.save(folder / "text_feat_e5.npy", numbered(9, 3))
    with pytest.raises(MmfastError, match=r"several files for 'text' \(text_feat_e5.npy, text_feat_minilm.npy\)"):
        load_dataset(str(folder))
    assert load_dataset(str(folder), features=[]).modalities == ()
    assert load_dataset(str(folder), features={"text": "text_feat_e5.npy"}).features["text"].shape == (9, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numbered(8, 2), "'text' of 'text_feat.npy' have 8 rows, for the items 0 to 7, but item 8 has"),
        (np.where(numbered(9, 2) == 3, np.nan, 1), "in 1 of 9 rows, first in row 2"),
        (np.where(numbered(9, 2) > 4, np.inf, 1), "in 5 of 9 rows, first in row 4"),
        (numbered(10, 2), "'text' of 'text_feat.npy' have 10 rows but there are 9 items"),
        (np.where(numbered(9, 2) == 3, -2e18, 1), r"in 1 of 9 rows, first in row 2 \(-2e\+18; beyond 1e\+18"),
        (np.where(numbered(9, 2) == 3, 1e300, 1), "in 1 of 9 rows, first in row 2 \\(inf"),
        (np.ones(9, np.float32), r"have shape \(9,\)"),
        (np.array(["a"] * 9), "holds <U1; want numbers"),
    ],
)
def test_feature_files_with_faults(tmp_path, array, message):
    folder = write_plain(tmp_path / "shop", features={"text_feat": array})
    with pytest.raises(MmfastError, match=message):
        load_dataset(str(folder))
    assert not any((tmp_path / "cache").rglob("*.*"))


def test_whole_numbers_are_features_and_other_arrays_are_not(tmp_path):
    arrays = {"audio": numbered(9, 2).astype(np.int64), "ids": np.arange(9), "names": np.array([["a"]] * 9)}
    folder = write_plain(tmp_path / "shop", features=arrays)
    np.save(folder / "graph.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    assert {m: f.dtype.kind for m, f in load_dataset(str(folder)).features.items()} == {"audio": "f"}


def test_doubles_become_floats_and_zero_rows_missing(tmp_path):
    array = numbered(9, 2, np.float64)
    array[5] = 0
    data = load_dataset(str(write_plain(tmp_path / "shop", features={"text_feat": array})))
    assert data.features["text"].dtype == np.float32 and data.missing["text"].tolist() == [5]


@pytest.mark.parametrize("write", [write_plain, write_mmrec])
def test_a_number_beyond_the_feature_rows_is_named_before_tables_are_made(tmp_path, write):
    rows = [(u, (u + s) % 6, [0, 0, 0, 1, 2][s]) for u in range(5) for s in range(5)]
    header = "user,item,split" if write is write_plain else "userID\titemID\tx_label"
    features = {"image_feat": numbered(40, 2)}
    folder = write(tmp_path / "shop", rows=[*rows, (1, 2**29, 0)], features=features, header=header)
    with pytest.raises(MmfastError, match=r"'image_feat.npy' have 40 rows, for the items 0 to 39, but item 536870912"):
        load_dataset(str(folder))


def test_sparse_numbers_are_original_ids(tmp_path):
    rows = [(7 + 10**9 * (u == 4), (u + s) % 6 + 2**29, [0, 0, 0, 1, 2][s]) for u in (0, 4) for s in range(5)]
    data = load_dataset(str(write_mmrec(tmp_path / "a", rows=rows)))
    assert (data.num_users, data.num_items) == (2, 6) and data.user_ids.to_list() == ["7", "1000000007"]
    data = load_dataset(str(write_plain(tmp_path / "b", rows=rows, header="user,item,split")))
    assert (data.num_users, data.num_items) == (2, 6) and data.item_index(str(2**29)) == 0


@pytest.mark.parametrize("write", [write_plain, write_mmrec])
@pytest.mark.parametrize(("bad", "kind"), [((1, -1, 0), "item -1"), ((-3, 1, 0), "user -3")])
def test_a_negative_number_is_an_error_that_names_the_row(tmp_path, write, bad, kind):
    rows = [(u, (u + s) % 6, [0, 0, 0, 1, 2][s]) for u in range(5) for s in range(5)]
    header = "user,item,split" if write is write_plain else "userID\titemID\tx_label"
    folder = write(tmp_path / "shop", rows=[*rows[:9], bad, *rows[9:]], header=header)
    with pytest.raises(MmfastError, match=rf"{kind} in row 10 \(the header not counted\) is negative; number the"):
        load_dataset(str(folder))


def test_a_negative_number_in_a_parquet_file_and_one_among_words(tmp_path):
    rows = [(u, f"i{(u + s) % 6}") for u in range(5) for s in range(5)]
    data = load_dataset(str(write_plain(tmp_path / "words", rows=[*rows, (1, "-1")])))
    assert data.item_id(6) == "-1"
    (tmp_path / "table").mkdir()
    pl.DataFrame({"user": [0, 1], "item": [3, -1]}).write_parquet(tmp_path / "table" / "interactions.parquet")
    with pytest.raises(MmfastError, match="item -1 in row 2"):
        load_dataset(str(tmp_path / "table"))


@pytest.mark.parametrize("write", [write_plain, write_mmrec])
@pytest.mark.parametrize(("bad", "told"), [(("1.0", 5, 0), "user 1.0"), ((1, "5.", 0), "item 5.")])
def test_a_number_written_in_another_way_is_an_error_that_names_the_row(tmp_path, write, bad, told):
    rows = [(u, (u + s) % 6, [0, 0, 0, 1, 2][s]) for u in range(5) for s in range(5)]
    header = "user,item,split" if write is write_plain else "userID\titemID\tx_label"
    folder = write(tmp_path / "shop", rows=[*rows[:9], bad, *rows[9:], ("", 1, 0)], header=header)
    with pytest.raises(
        MmfastError, match=rf"{told} in row 10 \(the header not counted\) has a decimal point and others"
    ):
        load_dataset(str(folder))


@pytest.mark.parametrize("items", [["1.0", "2.0", "3.0"], ["1.0", "1", "v2"], ["1.5", "1", "2"]])
def test_ids_with_points_that_are_no_numbers_of_two_kinds_are_words(tmp_path, items):
    rows = [(f"u{u}", item, label) for u in range(3) for label, item in enumerate(items)]
    data = load_dataset(str(write_plain(tmp_path / "shop", rows, header="user,item,split")))
    assert data.item_ids.to_list() == items


@pytest.mark.parametrize("stem", ["my.mod", "3d_feat", "_hidden", "-x", "b c", "größe"])
def test_a_file_whose_name_cannot_be_a_modality_is_refused(tmp_path, stem):
    folder = write_plain(tmp_path / "shop", features={stem: numbered(9, 2), "text_feat": numbered(9, 3)})
    with pytest.raises(MmfastError, match=rf"\(from the file '{stem}.npy'\): want a letter, then .*; rename the file"):
        load_dataset(str(folder))
    assert load_dataset(str(folder), features=["text"]).modalities == ("text",)
    assert load_dataset(str(folder), features={"mine": f"{stem}.npy"}).modalities == ("mine",)
    with pytest.raises(MmfastError, match=r"modality '2d': want a letter.*choose another name"):
        load_dataset(str(folder), features={"2d": f"{stem}.npy"})


@pytest.mark.parametrize("stem", ["values", "items", "my-mod_2"])
def test_names_of_methods_are_modalities_like_others(tmp_path, stem):
    folder = write_plain(tmp_path / "shop", features={stem: numbered(9, 2)})
    assert load_dataset(str(folder)).modalities == (stem,)


def test_blanks_after_commas_belong_to_no_value(tmp_path):
    rows = [(f"u{u}", f"i{(u + s) % 5}") for u in range(6) for s in range(4)]
    write_text(tmp_path / "shop/interactions.csv", "user, item\n" + "".join(f"{u}, {i}\n" for u, i in rows))
    assert all_rows(load_dataset(str(tmp_path / "shop"))) == sorted(rows)


def test_a_built_in_name_without_its_files_says_what_to_download(tmp_path):
    write_text(tmp_path / "baby/meta_Baby.json.gz", "")
    with pytest.raises(MmfastError, match=r"holds no data of .* For the data set 'baby' download the 2014 files"):
        load_dataset("baby", root=str(tmp_path))


def microlens_rows():
    return [(u + 1, (u + s) % 7 + 1, 1000 * u + 10 * s) for u in range(9) for s in range(6)]


def test_microlens_pairs_titles_covers_features(tmp_path):
    folder, rows = tmp_path / "MicroLens-mini", microlens_rows()
    text = "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    write_text(folder / "MicroLens-mini_pairs.csv", text)
    titles = "item,title\n" + '1,"Cats, and dogs"\n' + "2,Rain, again\n" + "".join(f"{i},T{i}\n" for i in range(3, 8))
    write_text(folder / "MicroLens-mini_title_en.csv", titles)
    for item in range(1, 7):
        write_text(folder / "MicroLens-mini_covers" / f"{item}.jpg", "x")
    np.save(folder / "image_features.npy", numbered(7, 3))
    data = load_dataset(str(folder), split="leave-one-out")
    assert (data.num_users, data.num_items) == (9, 7) and data.manifest["k_core"] == 5
    assert all_rows(data) == sorted((str(u), str(i)) for u, i, _ in rows)
    one, two, seven = (data.item_index(item) for item in ("1", "2", "7"))
    assert data.item_title(one) == "Cats, and dogs" and data.item_title(two) == "Rain, again"
    assert data.item_table()["image"][one] == "MicroLens-mini_covers/1.jpg" and data.item_table()["image"][seven] == ""
    assert data.features["image"][seven, 0] == 7 and data.features["image"][one, 0] == 1
    newest = {(data.user_index(str(u)), data.item_index(str(i))) for u, i, t in rows if t % 1000 == 50}
    assert pairs(data.test) == newest


def test_microlens_features_by_number_from_zero_or_not_at_all(tmp_path):
    folder = tmp_path / "lens"
    write_text(
        folder / "lens_pairs.csv", "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in microlens_rows())
    )
    np.save(folder / "image_features.npy", numbered(8, 3))
    with pytest.raises(MmfastError, match="have 8 rows and the items are numbered 1 to 7: row 0 may be item 0"):
        load_dataset(str(folder))
    for last, row in ((7, 8), (8, 7)):  # titles tell: without item 8 row 0 is item 0's, with it item 1's
        write_text(folder / "lens_title.csv", "item,title\n" + "".join(f"{i},T{i}\n" for i in range(1, last + 1)))
        data = load_dataset(str(folder))
        assert data.features["image"][data.item_index("7"), 0] == row
    np.save(folder / "image_features.npy", numbered(6, 3))
    with pytest.raises(MmfastError, match="have 6 rows but the items are numbered 1 to 7"):
        load_dataset(str(folder))


def test_microlens_sequences(tmp_path):
    folder = tmp_path / "lens"
    lines = [f"{u}\t{' '.join(str((u + s) % 7) for s in range(6))}" for u in range(9)]
    write_text(folder / "lens_pairs.tsv", "\n".join(lines) + "\n")
    data = load_dataset(str(folder), split="leave-one-out")
    test = {(data.user_id(u), data.item_id(i)) for u, i in pairs(data.test)}
    assert test == {(str(u), str((u + 5) % 7)) for u in range(9)}


def test_format_asked_for(tmp_path):
    folder = write_plain(tmp_path / "shop")
    assert prepare(folder, tmp_path / "out", format="plain").name == "out"
    with pytest.raises(MmfastError, match="holds no data of format mmrec"):
        prepare(folder, tmp_path / "other", format="mmrec")
    with pytest.raises(MmfastError, match=r"unknown format 'mrec'. Did you mean 'mmrec'"):
        prepare(folder, tmp_path / "other", format="mrec")
