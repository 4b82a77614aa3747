"""CoNLL-U files: words, heads, spaces, multiword tokens, and what is wrong with a file."""

from __future__ import annotations

import gzip

import pytest

from mmfast.content.conllu import read_conllu, treebank_files
from mmfast.errors import MmfastError

TEXT = """# newdoc id = one
# text = Don't go.
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVBP\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No
3.1\tgone\tgo\tVERB\t_\t_\t_\t_\t3:conj\t_
4\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_

# text = Mugs
1\tMugs\tmug\tNOUN\tNNS\t_\t0\troot\t_\t_
"""


@pytest.mark.parametrize("packed", [False, True])
def test_words_heads_and_spaces(tmp_path, packed):
    path = tmp_path / ("a.conllu.gz" if packed else "a.conllu")
    path.write_bytes(gzip.compress(TEXT.encode()) if packed else TEXT.encode())
    first, second = read_conllu(path)
    assert [word.form for word in first.words] == ["Do", "n't", "go", "."]
    assert [word.head for word in first.words] == [2, 2, 2, 2]
    assert [word.relation for word in first.words] == ["aux", "advmod", "ROOT", "punct"]
    assert [word.space_after for word in first.words] == [False, True, False, True]
    assert (first.opens_text, second.opens_text) == (True, False)
    assert (second.words[0].lemma, second.words[0].upos) == ("mug", "NOUN")


def test_a_short_line_and_a_lost_head_are_named(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text("1\tMug\tmug\n")
    with pytest.raises(MmfastError, match=r"a\.conllu, line 1: got 3 columns, want the 10"):
        list(read_conllu(path))
    path.write_text("\n1\tMug\tmug\tNOUN\t_\t_\t7\tnsubj\t_\t_\n")
    with pytest.raises(MmfastError, match="line 2: the head '7' of 'Mug' is no word"):
        list(read_conllu(path))
    path.write_text("1\tMug\tmug\tNOUN\t_\t_\t\tnsubj\t_\t_\n")
    with pytest.raises(MmfastError, match="the head '' of 'Mug'"):
        list(read_conllu(path))


def test_a_file_cut_short_is_one_sentence(tmp_path):
    path = tmp_path / "a.conllu.gz"
    path.write_bytes(gzip.compress(TEXT.encode() * 50)[:-30])
    with pytest.raises(MmfastError, match="cannot read"):
        list(read_conllu(path))


def test_a_folder_must_have_both_parts_once(tmp_path):
    with pytest.raises(MmfastError, match=r"got 0 files for the part 'train'.*universaldependencies"):
        treebank_files(tmp_path)
    for name in ("a-train.conllu", "b-train.conllu.gz", "a-dev.conllu"):
        (tmp_path / name).touch()
    with pytest.raises(MmfastError, match="got 2 files for the part 'train'"):
        treebank_files(tmp_path)
    (tmp_path / "b-train.conllu.gz").unlink()
    assert {part: path.name for part, path in treebank_files(tmp_path).items()} == {
        "train": "a-train.conllu",
        "dev": "a-dev.conllu",
    }
