"""Recommendations speak original ids, leave out training items, and agree with the exported index."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest

import mmfast
from mmfast.errors import MmfastError
from mmfast.evaluate import embed
from mmfast.export import export_index, export_vectors
from mmfast.recommend import read_ids, recommend, similar_items
from mmfast.significance import compare, paired, student_tail, t_test
from mmfast.trainer import fit
from tests.full_disk import full_after
from tests.toys import toy_config, toy_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    return fit(toy_config(out, name="trained", train={"epochs": 15}), toy_dataset(), progress=False)


def scores_of(run):
    users, items = embed(run.model)
    return (users @ items.T).numpy()


def test_the_best_unseen_items_in_the_users_own_ids(run):
    dataset, scores = run.dataset, scores_of(run)
    ptr, items = dataset.train.by_user(dataset.num_users)
    table = recommend(run, ["A007", "A002"], k=5)
    assert table.columns == ["user", "rank", "item", "title", "score"]
    assert table["user"].to_list() == ["A007"] * 5 + ["A002"] * 5
    assert table["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    for user, name in ((7, "A007"), (2, "A002")):
        rows = table.filter(pl.col("user") == name)
        row = scores[user].copy()
        row[items[ptr[user] : ptr[user + 1]]] = -np.inf
        best = np.argsort(-row)[:5]
        assert rows["item"].to_list() == [f"B{item:03d}" for item in best]
        assert rows["title"].to_list() == [f"Toy {item}" for item in best]
        np.testing.assert_allclose(rows["score"].to_numpy(), row[best], rtol=1e-5)


def test_training_items_are_never_recommended_unless_asked(run):
    dataset = run.dataset
    everyone = [dataset.user_id(user) for user in range(dataset.num_users)]
    table = recommend(run, everyone, k=dataset.num_items)
    pairs = set(zip(dataset.users_to_index(table["user"]), dataset.items_to_index(table["item"]), strict=True))
    seen = set(zip(dataset.train.users.tolist(), dataset.train.items.tolist(), strict=True))
    assert not pairs & seen
    assert len(pairs) == dataset.num_users * dataset.num_items - len(seen)
    with_seen = recommend(run, everyone, k=dataset.num_items, exclude_seen=False)
    assert with_seen.height == dataset.num_users * dataset.num_items


def test_a_model_with_its_data_is_as_good_as_a_run(run):
    assert recommend(run.model, ["A001"], dataset=run.dataset).equals(recommend(run, ["A001"]))
    assert mmfast.recommend(run, ["A001"]).equals(recommend(run, ["A001"]))
    with pytest.raises(MmfastError, match=r"got a Toy without data; pass dataset=\.\.\., or a Run"):
        recommend(run.model, ["A001"])


def test_similar_items_by_cosine_without_the_item_itself(run):
    items = embed(run.model)[1]
    unit = (items / items.norm(dim=1, keepdim=True)).numpy()
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    table = similar_items(run, ["B004"], k=3)
    assert table["similar"].to_list() == [f"B{item:03d}" for item in np.argsort(-cosine[4])[:3]]
    assert table["item"].to_list() == ["B004"] * 3


def test_unknown_ids_and_sizes_are_told(run):
    with pytest.raises(MmfastError, match=r"unknown user id 'A0071'.*Did you mean 'A007'\?"):
        recommend(run, ["A007", "A0071"])
    with pytest.raises(MmfastError, match="unknown item id 'Q1'"):
        similar_items(run, ["Q1"])
    for k in (0, 25):
        with pytest.raises(MmfastError, match=f"k: got {k}, but there are 24 items to choose from; ask for 1 to 24"):
            recommend(run, ["A007"], k=k)
    with pytest.raises(MmfastError, match="k: got 24, but there are 23 items to choose from; ask for 1 to 23"):
        similar_items(run, ["B004"], k=24)
    assert similar_items(run, ["B004"], k=23).height == 23


def test_a_text_for_a_list_and_a_fraction_for_k_are_told(run):
    with pytest.raises(MmfastError, match=r"user ids: got the text 'A007'; give a list, such as \['A007'\]"):
        recommend(run, "A007")
    with pytest.raises(MmfastError, match=r"k: got 2\.5; give a whole number"):
        recommend(run, ["A007"], k=2.5)


def test_no_users_give_an_empty_table(run):
    assert recommend(run, []).shape == (0, 5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # FAISS's SWIG types, on import
def test_the_index_finds_what_recommend_ranks(run, tmp_path):
    import faiss

    path = export_index(run, tmp_path / "items.faiss")
    index = faiss.read_index(str(path))
    ids = pl.read_parquet(tmp_path / "items.faiss.items.parquet")["id"]
    users = embed(run.model)[0].numpy()
    scores, rows = index.search(users[[3, 9]], 6)
    table = recommend(run, ["A003", "A009"], k=6, exclude_seen=False)
    assert ids.gather(rows.reshape(-1)).to_list() == table["item"].to_list()
    np.testing.assert_allclose(scores.reshape(-1), table["score"].to_numpy(), rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # FAISS's SWIG types, on import
def test_exporting_onto_a_full_disk_keeps_the_old_files(run, tmp_path):
    export_index(run, tmp_path / "items.faiss")
    export_vectors(run, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_after(100):
        with pytest.raises(
            MmfastError, match=r"cannot write '.*items\.faiss': .*; the former file is intact; free space"
        ):
            export_index(run, tmp_path / "items.faiss")
        with pytest.raises(MmfastError, match=r"cannot write '.*new\.faiss': .*; no file was left; free space"):
            export_index(run, tmp_path / "new.faiss")
        with pytest.raises(MmfastError, match=r"cannot write '.*users\.parquet': .*; the former file is intact"):
            export_vectors(run, tmp_path, kind="parquet")
    with (
        full_after(300),
        pytest.raises(MmfastError, match=r"cannot write '.*users\.npy': .*; the former file is intact"),
    ):
        export_vectors(run, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_faiss_that_is_not_installed_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MmfastError, match="install it with `pip install faiss-cpu`, or run `pip install -e "):
        export_index(run, tmp_path / "items.faiss")


def test_vectors_as_npy_and_as_parquet(run, tmp_path):
    users, items = (vectors.numpy() for vectors in embed(run.model))
    files = export_vectors(run, tmp_path / "npy")
    assert [path.name for path in files] == ["users.npy", "users.parquet", "items.npy", "items.parquet"]
    np.testing.assert_array_equal(np.load(tmp_path / "npy/users.npy"), users)
    assert pl.read_parquet(tmp_path / "npy/items.parquet")["title"][3] == "Toy 3"
    export_vectors(run, tmp_path / "parquet", kind="parquet")
    table = pl.read_parquet(tmp_path / "parquet/items.parquet")
    np.testing.assert_array_equal(table["vector"].to_numpy(), items)
    with pytest.raises(MmfastError, match="kind 'csv' is unknown; choose npy or parquet"):
        export_vectors(run, tmp_path, kind="csv")


def test_ids_from_files(tmp_path):
    (tmp_path / "a.txt").write_text("007\n\n A1 \n")
    assert read_ids(tmp_path / "a.txt") == ["007", "A1"]
    (tmp_path / "a.csv").write_text("age,user\n3,007\n4,A1\n")
    assert read_ids(tmp_path / "a.csv") == ["007", "A1"]
    pl.DataFrame({"anything": [7, 8]}).write_parquet(tmp_path / "a.parquet")
    assert read_ids(tmp_path / "a.parquet") == ["7", "8"]
    (tmp_path / "b.csv").write_text("age,name\n3,007\n")
    with pytest.raises(MmfastError, match="has the columns age, name; name the one with the ids 'user'"):
        read_ids(tmp_path / "b.csv")
    with pytest.raises(MmfastError, match=r"'\.json' is not known; give \.txt, \.csv or \.parquet"):
        (tmp_path / "c.json").write_text("[]")
        read_ids(tmp_path / "c.json")
    for kind in ("txt", "csv", "parquet"):
        (tmp_path / f"d.{kind}").write_bytes(b"user\n\xff\xfe\x81\n")
        with pytest.raises(MmfastError, match=rf"d\.{kind}' cannot be read"):
            read_ids(tmp_path / f"d.{kind}")
    with pytest.raises(MmfastError, match=r"does not exist\. Did you mean 'a\.txt'\?"):
        read_ids(tmp_path / "aa.txt")


def test_student_tail_against_a_table():
    # Two-sided critical values of Student's t at 5 % and 1 %.
    for t, freedom, p in ((12.7062, 1, 0.05), (2.22814, 10, 0.05), (3.16927, 10, 0.01), (1.98397, 100, 0.05)):
        assert student_tail(t, freedom) == pytest.approx(p, rel=1e-3)
    assert student_tail(1.959964, 10_000) == pytest.approx(0.05, rel=1e-4)
    assert student_tail(0.0, 7) == pytest.approx(1.0, rel=1e-4)


def test_paired_t_test_of_five_users():
    # Differences 1, 2, 3, 4, 5: mean 3, t = 3 / (sqrt(2.5) / sqrt(5)) = 4.2426, p = 0.01324 with 4 degrees of freedom.
    a, b = np.zeros(5), np.arange(1.0, 6.0)
    result = paired(a, b)
    assert result["difference"] == 3.0
    assert result["p"] == pytest.approx(0.01324, abs=1e-4)
    assert 1.4 < result["low"] < 3 < result["high"] < 4.6
    assert t_test(np.zeros(9)) == 1.0
    assert t_test(np.ones(1)) == 1.0


def test_compare_joins_by_user(run, tmp_path):
    other = fit(toy_config(tmp_path, name="worse", train={"epochs": 1}), run.dataset, progress=False)
    table = compare(run.folder, other.folder)
    row = table.row(by_predicate=pl.col("metric") == "recall@5", named=True)
    assert row["a"] == pytest.approx(run.metrics["test"]["recall@5"])
    assert row["b"] == pytest.approx(other.metrics["test"]["recall@5"])
    assert row["low"] <= row["difference"] <= row["high"]
    assert 0 <= row["p"] <= 1
    same = compare(run.folder, run.folder)
    assert set(same["difference"]) == {0.0}
    assert set(same["p"]) == {1.0}


def test_compare_refuses_other_users_and_unfinished_runs(run, tmp_path):
    other = fit(toy_config(tmp_path, name="other"), toy_dataset(num_users=29), progress=False)
    with pytest.raises(MmfastError, match=r"evaluated on other users \(30 and 29, 29 in common\)"):
        compare(run.folder, other.folder)
    (other.folder / "per_user.parquet").unlink()
    with pytest.raises(MmfastError, match="is not finished"):
        compare(run.folder, other.folder)
