"""Target labels: what counts as an answer, every labeller through its real code, and too few labels."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from mmfast.content.answers import read_answers
from mmfast.content.endpoint import EndpointSettings
from mmfast.content.label import LabelSettings, label
from mmfast.content.label_answers import Listing, listings_of, match
from mmfast.content.label_files import demo_targets, read_labels, write_labels
from mmfast.content.language_models import LocalSettings
from mmfast.data.demo import demo_folder
from mmfast.errors import MmfastError
from tests.content.chat_server import ChatServer, fail, say
from tests.content.tiny_models import save_llama, save_parrot

LISTINGS = [
    Listing("a", "Red mug on a wooden table", ("mug", "table")),
    Listing("b", "A lamp", ("lamp",)),
    Listing("c", "Rug shown with tables and a mug", ("Rug", "tables", "mug")),
    Listing("d", "", ()),
    Listing("e", "Table with two mugs", ("Table", "mugs")),
]
CPU = {"dtype": "float32", "device": "cpu", "batch_size": 2}


def local(folder, **changes):
    return LabelSettings(by="local", local=LocalSettings(model=str(folder), **CPU), **changes)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("mug", (0, "exact")),
        ("  “Mug”.\n", (0, "exact")),
        ("MUG!", (0, "exact")),
        ("- mug", (0, "exact")),
        ("tea  pots", (2, "exact")),
        ("mugs", (0, "lemma")),
        ("box", (1, "lemma")),
        ("tea pot", (2, "lemma")),
        ("knife", (3, "lemma")),
        ("berry", (4, "lemma")),
        ("dress", (5, "exact")),
        ("dresses", (5, "lemma")),
        ("c++", (6, "exact")),
        ("The mug is sold.", (-1, "")),
        ("mug, boxes", (-1, "")),
        ("smug", (-1, "")),
        ("", (-1, "")),
        ("...", (-1, "")),
    ],
)
def test_what_counts_as_an_answer(answer, found):
    words = ("mug", "boxes", "Tea pots", "knives", "berries", "dress", "C++")
    assert match(answer, Listing("a", "", words)) == found


def test_given_lemmas_are_used():
    listing = Listing("a", "", ("oxen", "cart"), ("ox", "cart"))
    assert match("ox", listing) == (0, "lemma")
    assert match("oxen", listing) == (0, "exact")


def test_found_objects_become_listings():
    class Objects:
        """Two items' objects as `find_text_objects` returns them."""

        texts, offsets, lemmas = ["Two mugs, a rug", ""], np.array([0, 2, 2]), ["mug", "rug"]

        def words(self, item):
            return [["mugs", "rug"], []][item]

    expected = [Listing("a", "Two mugs, a rug", ("mugs", "rug"), ("mug", "rug")), Listing("b", "", (), ())]
    assert listings_of(["a", "b"], Objects()) == expected


def test_an_endpoint_labels_what_has_a_choice(tmp_path):
    answers = {"Red mug": '"Mug".', "Rug shown": "table", "Table with": "I would say the table."}

    def act(body):
        prompt = body["messages"][0]["content"]
        return say(next(answer for start, answer in answers.items() if start in prompt))

    with ChatServer(act) as server:
        settings = LabelSettings(by="endpoint", endpoint=EndpointSettings(url=server.url, model="m"))
        labels = label(LISTINGS, settings, tmp_path, show=False)
        assert label(LISTINGS, settings, tmp_path, show=False).counts() == labels.counts()
    assert labels.targets.tolist() == [0, -1, 1, -1, -1] and labels.targets.dtype == np.int32
    assert labels.how == {"a": "exact", "c": "lemma"}
    assert labels.failures == {"e": "no candidate: 'I would say the table.'"}
    assert labels.counts() == {"exact": 1, "lemma": 1, "failed": 1, "unasked": 2}
    assert labels.in_scope == pytest.approx(1 / 3)
    assert (labels.usage.answers, labels.usage.requests, len(server.bodies)) == (3, 3, 3)
    asked = next(prompt for prompt in server.prompts if "Red mug" in prompt)
    assert "Red mug on a wooden table" in asked and "\nmug\ntable\n" in asked


def test_another_text_is_asked_again_and_never_answered_by_the_old_line(tmp_path):
    changed = [Listing("a", "Blue mug on a table", ("mug", "table"))]
    with ChatServer(lambda body: say("mug" if "Red" in body["messages"][0]["content"] else "table")) as server:
        settings = LabelSettings(by="endpoint", endpoint=EndpointSettings(url=server.url, model="m"))
        assert label(LISTINGS[:1], settings, tmp_path, show=False).targets.tolist() == [0]
        assert label(changed, settings, tmp_path, show=False).targets.tolist() == [1]
        assert label(LISTINGS[:1], settings, tmp_path, show=False).targets.tolist() == [0]
    assert len(server.bodies) == 2


def test_a_long_text_is_cut_and_counted(tmp_path):
    listings = [Listing("a", "mug " * 100, ("mug", "table")), Listing("b", "Mug on a table", ("mug", "table"))]
    with ChatServer([say("mug")]) as server:
        endpoint = EndpointSettings(url=server.url, model="m")
        settings = LabelSettings(by="endpoint", endpoint=endpoint, text_limit=100)
        assert label(listings, settings, tmp_path, show=False).cut == 1
    assert max(prompt.count("mug ") for prompt in server.prompts) == 24


def test_too_few_labels_end_with_an_explanation_and_keep_the_answers(tmp_path):
    with ChatServer([say("I cannot say.")]) as server:
        settings = LabelSettings(by="endpoint", endpoint=EndpointSettings(url=server.url, model="m"))
        with pytest.raises(MmfastError, match=r"only 0 of 3 items .*I cannot say"):
            label(LISTINGS, settings, tmp_path, show=False)
    assert len(read_answers(next(tmp_path.iterdir()))) == 3


def test_a_failed_request_is_no_answer_and_is_asked_again(tmp_path):
    with ChatServer([fail(500), say("mug")]) as server:
        endpoint = EndpointSettings(url=server.url, model="m", retries=0, concurrency=1)
        settings = LabelSettings(by="endpoint", endpoint=endpoint)
        first = label(LISTINGS, settings, tmp_path, show=False)
        assert first.targets.tolist() == [-1, -1, 2, -1, 1] and "500" in first.failures["a"]
        assert first.in_scope == pytest.approx(1 / 3)  # "mug" is a candidate of c, for e another form; a has no answer
        assert label(LISTINGS, settings, tmp_path, show=False).targets.tolist() == [0, -1, 2, -1, 1]
    assert len(server.bodies) == 4


@pytest.mark.parametrize(
    ("answer", "candidates", "found"),
    [
        ("tap", ("tapes", "taps"), (1, "lemma")),
        ("tape", ("taps", "tapes"), (1, "lemma")),
        ("capes", ("cap", "rug"), (-1, "")),
        ("bus", ("tapes", "buses"), (1, "lemma")),
        ("brush", ("brushes",), (0, "lemma")),
        ("watches", ("watch",), (0, "lemma")),
        ("potato", ("potatoes",), (0, "lemma")),
        ("waltz", ("waltzes",), (0, "lemma")),
    ],
)
def test_another_noun_is_no_other_number_of_one(answer, candidates, found):
    assert match(answer, Listing("a", "", candidates)) == found


def test_an_endpoint_cannot_score(tmp_path):
    settings = LabelSettings(by="endpoint", choose="sum", endpoint=EndpointSettings(model="m"))
    with pytest.raises(MmfastError, match="choose=answer, or by=local"):
        label(LISTINGS, settings, tmp_path, show=False)


def test_a_local_model_answers(tmp_path):
    save_parrot(tmp_path / "parrot", {"]": "mug"})
    labels = label(LISTINGS, local(tmp_path / "parrot"), tmp_path / "out", show=False)
    assert labels.targets.tolist() == [0, -1, 2, -1, 1]
    assert labels.how == {"a": "exact", "c": "exact", "e": "lemma"}
    assert labels.in_scope == pytest.approx(2 / 3)
    row = json.loads(labels.file.read_text().splitlines()[0])
    assert (row["item"], row["text"], row["completion_tokens"]) == ("a", "mug", 2)  # the end token counts
    assert row["model"].startswith("parrot@") and labels.usage.cost == 0


@pytest.mark.parametrize("choose", ["sum", "mean"])
def test_scoring_never_leaves_the_candidates(tmp_path, choose):
    save_llama(tmp_path / "llama")
    labels = label(LISTINGS, local(tmp_path / "llama", choose=choose), tmp_path / "out", show=False)
    assert labels.in_scope == 1.0 and not labels.failures
    assert set(labels.how.values()) == {"scored"} and set(labels.how) == {"a", "c", "e"}
    for row, listing in zip(read_answers(labels.file), (LISTINGS[0], LISTINGS[2], LISTINGS[4]), strict=True):
        best = int(np.argmax(row["scores"]))
        assert row["text"] == listing.candidates[best] and labels.targets[LISTINGS.index(listing)] == best


@pytest.mark.parametrize(("choose", "scored"), [("answer", None), ("sum", "candidate and any end token")])
def test_what_is_scored_is_part_of_the_key(tmp_path, monkeypatch, choose, scored):
    save_llama(tmp_path / "llama")
    keys = []
    monkeypatch.setattr("mmfast.content.label.content_key", lambda **of: keys.append(of["settings"]) or str(len(keys)))
    settings = local(tmp_path / "llama", choose=choose, least_labelled=0)
    label(LISTINGS, settings, tmp_path / "out", show=False)
    assert {key.get("scored") for key in keys} == {scored}


def test_missing_weights_are_told_with_the_page_and_the_alternative(tmp_path):
    with pytest.raises(MmfastError) as error:
        label(LISTINGS, LabelSettings(), tmp_path, show=False)
    for part in ("llama-2-7b-chat", "https://huggingface.co/meta-llama/Llama-2-7b-chat-hf", "item,object_index"):
        assert part in str(error.value)


def test_labels_by_hand(tmp_path):
    (tmp_path / "labels.csv").write_text("item,object_index\na,1\nb,0\nc,2\n")
    labels = label(LISTINGS, LabelSettings(by="file", file=str(tmp_path / "labels.csv")), tmp_path, show=False)
    assert labels.targets.tolist() == [1, -1, 2, -1, -1]
    assert labels.counts() == {"file": 2, "failed": 1, "unasked": 2}
    assert labels.in_scope is None and labels.usage is None


def test_ids_of_any_kind_survive_the_file(tmp_path):
    ids = ["with,comma", 'with "quotes"', "ünï", " spaced "]
    listings = [Listing(item, "", ("x", "an object, of two words")) for item in ids]
    write_labels(tmp_path / "labels.csv", [1] * len(ids), listings)
    assert read_labels(tmp_path / "labels.csv", listings) == dict.fromkeys(ids, 1)


def test_labels_of_other_objects_are_refused(tmp_path):
    write_labels(tmp_path / "labels.csv", [1, -1], [Listing("a", "", ("lamp", "mug")), Listing("b", "", ("cup",))])
    assert (tmp_path / "labels.csv").read_text() == "item,object_index,word\na,1,mug\n"
    with pytest.raises(MmfastError, match=r"object 1 of item 'a' is 'pot', not 'mug': the file was made with the obj"):
        read_labels(tmp_path / "labels.csv", [Listing("a", "", ("lamp", "pot"))])
    assert read_labels(tmp_path / "labels.csv", [Listing("a", "", ("", ""))]) == {"a": 1}  # objects without words


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("item,object_index\nz,0\n", "line 2: there is no item 'z'"),
        ("item,object_index\na,2\n", "has 2 objects, so '2' is none of 0..1"),
        ("item,object_index\na,mug\n", "'mug' is none of"),
        ("item,object_index\na\n", "None is none of"),
        ("item,object_index\na,0\na,1\n", "line 3: item 'a' is given twice"),
        ("asin;object\na;0\n", "want item,object_index"),
        ("", "the file has no header; want the columns item,object_index"),
        (None, "cannot be read"),
    ],
)
def test_mistakes_in_a_file_are_told(tmp_path, content, told):
    if content is not None:
        (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(MmfastError) as error:
        read_labels(tmp_path / "labels.csv", LISTINGS)
    assert told in str(error.value)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield demo_folder(num_items=400, num_users=5)


def demo_listings(folder):
    """Every object's noun in the order of its first mention: what a perfect parser would find."""
    from mmfast.data.demo import demo_truth

    truth = demo_truth(folder).sort("item", pl.coalesce("title_start", pl.col("text_start") + 1000))
    nouns = truth.group_by("item", maintain_order=True).agg("noun")["noun"].to_list()
    return [Listing(f"item-{n:05d}", "", tuple(dict.fromkeys(words))) for n, words in enumerate(nouns)]


def test_the_truth_of_the_demo_labels_with_the_noise_and_failures_asked_for(demo, tmp_path):
    listings, truth = demo_listings(demo), demo_targets(demo)
    right = label(listings, LabelSettings(by="truth"), tmp_path, truth, show=False)
    for listing, target in zip(listings, right.targets, strict=True):
        assert target < 0 or listing.candidates[target] == truth[listing.item]
    asked = len(listings) - right.unasked
    assert asked > 350 and not right.failures
    noisy = label(listings, LabelSettings(by="truth", noise=0.2, failure_rate=0.1), tmp_path, truth, show=False)
    assert 0.05 < len(noisy.failures) / asked < 0.15
    both = (right.targets >= 0) & (noisy.targets >= 0)
    assert 0.13 < (right.targets != noisy.targets)[both].mean() < 0.27
    again = label(listings[:100], LabelSettings(by="truth", noise=0.2, failure_rate=0.1), tmp_path, truth, show=False)
    assert again.targets.tolist() == noisy.targets[:100].tolist()


def test_truth_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(MmfastError, match="demo catalogue only"):
        label(LISTINGS, LabelSettings(by="truth"), tmp_path, show=False)
    with pytest.raises(MmfastError, match=r"has no truth\.parquet"):
        demo_targets(tmp_path)
