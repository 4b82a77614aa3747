"""Local language models: tiny ones of the real classes, loaded from real folders by the real code."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from mmfast.content.chat import Question
from mmfast.content.encode import EncodedFeatures
from mmfast.content.encoders import EncodeConfig, Spec
from mmfast.content.hub_models import PRESETS, find_model
from mmfast.content.language_models import LocalChat, LocalSettings, LocalVision, VisionSettings
from mmfast.content.last_token import LastTokenEncoder, LastTokenSettings, last_token, last_token_encoder
from mmfast.content.store import Store
from mmfast.errors import MmfastError
from tests.content.tiny import cached_on_hub
from tests.content.tiny_models import LLAMA2_CHAT, save_llama, save_mistral, save_mllama, save_parrot

CPU = {"dtype": "float32", "device": "cpu"}
PROMPTS = ["Which?", "Which of these things is the one that is sold: mug or table?", "Say mug.", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The models in memory and the folders they were saved to."""
    root = tmp_path_factory.mktemp("models")
    saved = {"llama": save_llama, "mistral": save_mistral, "mllama": save_mllama}
    return {name: (save(root / name), root / name) for name, save in saved.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A tall, a wide and a square picture; sizes decide the number of tiles."""
    root = tmp_path_factory.mktemp("pictures")
    for name, size, colour in (("tall", (40, 150), "red"), ("wide", (120, 50), "blue"), ("square", (80, 80), "green")):
        Image.new("RGB", size, colour).save(root / f"{name}.png")
    return [root / f"{name}.png" for name in ("tall", "wide", "square")]


def chat(folder, new_tokens=8, **changes):
    return LocalChat(LocalSettings(model=str(folder), **{**CPU, **changes}), new_tokens, "label by hand")


def greedy(model, ids, count):
    """Continue token by token from whole prompts, without a cache, until the end token."""
    new = []
    while len(new) < count and new[-1:] != [2]:
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def test_a_prompt_has_the_form_of_the_template(folders):
    talker = chat(folders["llama"][1])
    text = talker.tokenizer.decode(talker.tokens("Which mug?"))
    assert text == "<s> [INST] Which mug? [/INST]" or text == "<s>[INST] Which mug? [/INST]"
    assert talker.tokens("x").count(1) == 1  # the template and the tokenizer both begin a text; one is enough


def test_answers_are_the_most_probable_ones_for_any_batch(folders):
    model, folder = folders["llama"]
    talker = chat(folder)
    together = talker.reply([Question(str(n), prompt) for n, prompt in enumerate(PROMPTS)])
    assert len({reply.text for reply in together}) > 1
    for prompt, reply in zip(PROMPTS, together, strict=True):
        expected = greedy(model, talker.tokens(prompt), 8)
        assert reply.text == talker.tokenizer.decode(expected, skip_special_tokens=True).strip()
        assert (reply.prompt_tokens, reply.completion_tokens) == (len(talker.tokens(prompt)), len(expected))
        assert talker.reply([Question("a", prompt)])[0] == reply


def test_scores_are_the_log_probabilities_of_whole_candidates(folders):
    model, folder = folders["llama"]
    talker, candidates = chat(folder), ("mug", "candle", "rug", "a long table")
    reply = talker.choose(PROMPTS[1], candidates)
    prompt, lengths = talker.tokens(PROMPTS[1]), []
    for candidate, score in zip(candidates, reply.scores, strict=True):
        word = [*talker.tokenizer(candidate, add_special_tokens=False)["input_ids"], talker.tokenizer.eos_token_id]
        with torch.no_grad():
            log_p = model(torch.tensor([prompt + word])).logits[0].double().log_softmax(-1)
        expected = sum(float(log_p[len(prompt) - 1 + n, token]) for n, token in enumerate(word))
        assert score == pytest.approx(expected, abs=1e-4)
        lengths.append(len(word))
    assert reply.text == candidates[int(np.argmax(reply.scores))]
    means = talker.choose(PROMPTS[1], candidates, mean=True).scores
    assert means == pytest.approx([score / n for score, n in zip(reply.scores, lengths, strict=True)])
    assert lengths[0] == 2 < max(lengths)


def test_a_candidate_that_continues_another_can_be_chosen(tmp_path):
    for end in (None, 1):  # the tokenizer's, and one that generation alone stops at, as Gemma's <end_of_turn>
        for answer in ("tablecloth", "table"):
            folder = tmp_path / f"{answer}{end}"
            save_parrot(folder, {"]": answer}, end=end)
            assert chat(folder).reply([Question("a", "Which?")])[0].text == answer
            for mean in (False, True):
                assert chat(folder).choose("Which?", ("table", "tablecloth"), mean).text == answer


def test_any_of_several_end_tokens_ends_a_candidate(folders):
    talker, candidates = chat(folders["llama"][1]), ("mug", "a long table")
    each = []
    for ends in (2, 5, [2, 5]):
        talker.model.generation_config.eos_token_id = ends
        each.append(talker.choose("Which?", candidates).scores)
    for first, second, both in zip(*each, strict=True):
        assert both == pytest.approx(float(np.logaddexp(first, second)), abs=1e-4)
    talker.model.generation_config.eos_token_id = [2, talker.model.lm_head.out_features]  # one that is never said
    assert talker.choose("Which?", candidates).scores == each[0]


def test_a_tokenizer_without_an_end_token_cannot_score(folders):
    talker = chat(folders["llama"][1])
    talker.tokenizer.eos_token = talker.model.generation_config.eos_token_id = None
    with pytest.raises(MmfastError, match="has no end token; set choose=answer"):
        talker.choose("Which?", ("mug", "rug"))


def test_probabilities_that_are_no_numbers_fail(tmp_path):
    model = save_llama(tmp_path / "broken")
    with torch.no_grad():
        model.lm_head.weight[0] = float("inf")
    model.save_pretrained(tmp_path / "broken")
    assert "no numbers in float32" in chat(tmp_path / "broken").choose("Which?", ("mug", "rug")).failure


def test_a_prompt_that_is_too_long_fails_alone(folders):
    talker = chat(folders["llama"][1])
    short, long = talker.reply([Question("a", "Which?"), Question("b", "x y" * 2000)])
    assert not short.failure and "the model takes 2040" in long.failure and not long.again
    assert "tokens" in talker.choose("x y" * 2000, ("mug", "rug")).failure


def test_a_tokenizer_without_a_template(tmp_path):
    save_llama(tmp_path / "bare", template=None)
    with pytest.raises(MmfastError, match="template=llama2"):
        chat(tmp_path / "bare").reply([Question("a", "Which?")])
    llama2 = chat(tmp_path / "bare", template="llama2")
    save_llama(tmp_path / "own", template=LLAMA2_CHAT)
    assert llama2.tokens("Which?") == chat(tmp_path / "own").tokens("Which?")


DATED = "{% set date_string = strftime_now('%d %b %Y') %}{{ date_string }}"


def test_a_template_that_prints_the_day_prints_the_same_one_every_day(folders, pictures, tmp_path, monkeypatch):
    save_llama(tmp_path / "dated", template=LLAMA2_CHAT + DATED)
    talker = chat(tmp_path / "dated")
    assert talker.tokenizer.decode(talker.tokens("Which?")).endswith("26 Jul 2024")
    sighted, read = vision(folders["mllama"][1]), []
    sighted.processor.chat_template += DATED
    tokenizer = sighted.processor.tokenizer
    monkeypatch.setattr(sighted, "_generate", lambda model, tokenizer, inputs: read.append(inputs["input_ids"]) or [])
    sighted._continue([Image.open(pictures[0])], [[{"role": "user", "content": [{"type": "image"}]}]])
    assert tokenizer.decode(read[0][0]).endswith("26 Jul 2024")


def test_settings_and_weights_make_the_tag(folders, tmp_path):
    first = chat(folders["llama"][1])
    save_llama(tmp_path / "llama", seed=1)
    assert first.tag.startswith("llama@") and chat(tmp_path / "llama").tag != first.tag
    own = {"max_new_tokens": 8, "dtype": "float32", "batch_size": 8, "template": "own", "date": "26 Jul 2024"}
    assert first.settings == {**own, "transformers": version("transformers")}


def vision(folder, **changes):
    return LocalVision(VisionSettings(model=str(folder), **{**CPU, **changes}), 6, "use CLIP")


def test_a_vision_model_sees_the_picture_in_any_batch(folders, pictures):
    model, folder = folders["mllama"]
    talker = vision(folder)
    asked = [Question(str(n), prompt, path) for n, (prompt, path) in enumerate(zip(PROMPTS, pictures, strict=False))]
    together = talker.reply(asked)
    assert type(talker.model) is type(model)
    assert [talker.reply([question])[0] for question in asked] == together
    same = [Question("a", "Describe.", path) for path in pictures]
    assert len({reply.text for reply in talker.reply(same)}) > 1
    assert all(reply.completion_tokens > 0 and reply.prompt_tokens > 5 for reply in together)


def test_a_picture_that_cannot_be_read_fails_alone(folders, pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(pictures[0].read_bytes()[:60])
    asked = [Question("a", "Describe.", tmp_path / "broken.png"), Question("b", "Describe.", pictures[0])]
    broken, good = vision(folders["mllama"][1]).reply(asked)
    assert broken.failure.startswith("picture: ") and not broken.again and not good.failure
    assert vision(folders["mllama"][1]).reply(asked[1:]) == [good]
    assert vision(folders["mllama"][1]).reply(asked[:1]) == [broken]


def test_a_text_model_cannot_describe(folders, pictures):
    talker = vision(folders["llama"][1])
    with pytest.raises(MmfastError, match="does not read both pictures and texts; choose an image-text-to-text model"):
        talker.reply([Question("a", "Describe.", pictures[0])])


def encoder(folder, **changes):
    return LastTokenEncoder(LastTokenSettings(model=str(folder), **{**CPU, **changes}))


TEXTS = ["A red mug.", "", "A wooden table with a lamp on it, shown beside a rug", "mug"]


def test_vectors_are_the_last_states_of_single_texts(folders):
    model, folder = folders["mistral"]
    rows, raw = encoder(folder, batch_size=3).encode(TEXTS), encoder(folder, normalize=False).encode(TEXTS)
    assert rows.dtype == raw.dtype == np.float32 and rows.shape == (4, 32)
    for text, row, unscaled in zip(TEXTS, rows, raw, strict=True):
        ids = encoder(folder).tokens(text)
        with torch.no_grad():
            expected = model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
        np.testing.assert_allclose(unscaled, expected, atol=2e-5)
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=2e-6)


def test_tokens_are_cut_and_end_with_the_end_token(folders):
    made = encoder(folders["mistral"][1], max_tokens=6)
    assert [len(made.tokens(text)) for text in ("", "mug", "x" * 50)] == [2, 3, 6]
    assert all(made.tokens(text)[0] == 1 and made.tokens(text)[-1] == 2 for text in TEXTS)
    made.tokenizer.add_eos_token = True  # newer folders of e5-mistral end texts themselves
    made.tokenizer.update_post_processor()
    assert made.tokens("mug").count(2) == 1 and len(made.tokens("x" * 50)) == 6


def test_a_tokenizer_without_an_end_token_cannot_encode(folders, tmp_path):
    shutil.copytree(folders["mistral"][1], tmp_path / "endless")
    file = tmp_path / "endless" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": None}))
    with pytest.raises(MmfastError, match=r"endless' has no end token.*sentence:NAME_OR_FOLDER"):
        encoder(tmp_path / "endless").encode(TEXTS)


def test_the_last_token_is_found_with_padding_on_either_side():
    hidden = torch.arange(24.0).view(2, 4, 3)
    right, left = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert torch.equal(last_token(hidden, right), hidden[[0, 1], [1, 3]])
    assert torch.equal(last_token(hidden, left), hidden[[0, 1], [3, 3]])


def test_no_texts_make_no_rows_and_load_no_weights(folders):
    made = encoder(folders["mistral"][1])
    assert made.encode([]).shape == (0, 32) and "model" not in vars(made)
    assert made.settings["weights"] != encoder(folders["llama"][1]).settings["weights"]


def test_vectors_become_features_of_items(folders, tmp_path):
    folder = folders["mistral"][1]
    config = EncodeConfig(model=f"last-token:{folder}", precision="float32", max_length=20, device="cpu")
    made = last_token_encoder(Spec("text", "last-token", str(folder)), config)
    assert made.settings["max_tokens"] == 20 and made.settings["batch_size"] == 8
    source = EncodedFeatures(made, TEXTS, config, Store(tmp_path / "store"))
    missing = source.write(tmp_path / "text.npy", "text", np.arange(4), pl.Series(["a", "b", "c", "d"]))
    rows = np.load(tmp_path / "text.npy")
    assert missing.tolist() == [1]  # the empty text gets the mean of the others
    np.testing.assert_allclose(rows[[0, 2, 3]], made.encode([TEXTS[0], TEXTS[2], TEXTS[3]]), atol=1e-5)
    np.testing.assert_allclose(rows[1], rows[[0, 2, 3]].mean(axis=0), atol=1e-6)
    default = last_token_encoder(Spec("text", "last-token", str(folder)), EncodeConfig(model="last-token:x"))
    assert default.settings["dtype"] == "bfloat16" and default.settings["max_tokens"] == 512
    with pytest.raises(MmfastError, match="--max-length 1: a last-token encoder needs at least 2"):
        last_token_encoder(Spec("text", "last-token", str(folder)), EncodeConfig(model="last-token:x", max_length=1))


def test_bfloat16_is_near_float32(folders):
    exact, rough = (encoder(folders["mistral"][1], dtype=kind).encode(TEXTS) for kind in ("float32", "bfloat16"))
    assert rough.dtype == np.float32 and (exact * rough).sum(axis=1).min() > 0.98


def full(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("place", ["to", "forward", "generate"])
def test_a_full_device_is_told(folders, pictures, monkeypatch, place):
    talker, sighted, embedder = chat(folders["llama"][1]), vision(folders["mllama"][1]), encoder(folders["mistral"][1])
    ways = {
        "forward": [lambda: talker.choose("Which?", ("mug", "rug"))],
        "generate": [
            lambda: talker.reply([Question("a", "Which?")]),
            lambda: sighted.reply([Question("a", "Describe.", pictures[0])]),
        ],
    }
    if place == "to":
        monkeypatch.setattr(torch.nn.Module, "to", full)
        monkeypatch.setattr(type(folders["llama"][0]), "to", full)
        monkeypatch.setattr(type(folders["mllama"][0]), "to", full)
        monkeypatch.setattr(type(folders["mistral"][0]), "to", full)
        ways["to"] = [*ways["forward"], *ways["generate"], lambda: embedder.encode(["mug"])]
    else:
        monkeypatch.setattr(talker.model, place, full)
        monkeypatch.setattr(sighted.model, place, full)
    for ask in ways[place]:
        with pytest.raises(MmfastError, match=r"too little memory; choose a .*smaller model or device=cpu$"):
            ask()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_missing_weights_name_their_page_and_what_to_do_instead(name):
    with pytest.raises(MmfastError) as error:
        find_model(name.upper(), "Use the light encoder")
    for part in (name.upper(), f"https://huggingface.co/{PRESETS[name]}", "Use the light encoder"):
        assert part in str(error.value)


def test_a_model_on_the_hub_needs_safetensors(hub, tmp_path, monkeypatch):
    save_llama(tmp_path / "llama")
    snapshot = cached_on_hub(hub, "org/llama", tmp_path / "llama")
    assert find_model("org/llama", "Use the light encoder").folder == snapshot
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    none_there = r"'org/llama' has no safetensors on Hugging Face, .*give the folder"
    absent = ["consolidated.safetensors", "onnx/model.safetensors"]
    in_vain = r"no safetensors in the cache .*could not be asked for them \(.+\); .* where https://.*/org/llama can b"
    with pytest.raises(MmfastError, match=in_vain):  # the hub is out of reach
        find_model("org/llama", "Use the light encoder")
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: ["config.json", *absent])
    with pytest.raises(MmfastError, match=none_there):
        find_model("org/llama", "Use the light encoder")


def test_weights_are_fetched_once(hub, tmp_path, monkeypatch):
    from huggingface_hub.utils import filter_repo_objects

    save_llama(tmp_path / "llama")
    snapshot, fetched = cached_on_hub(hub, "org/llama", tmp_path / "llama"), []

    def fetch(name, **patterns):
        files = ["config.json", "model-00001-of-00001.safetensors", "consolidated.safetensors", "pytorch_model.bin"]
        fetched.extend(filter_repo_objects(files, **patterns))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    find_model("org/llama", "Use the light encoder")
    assert fetched == ["config.json", "model-00001-of-00001.safetensors"]


def test_a_folder_that_is_none_of_a_model_is_told(tmp_path):
    with pytest.raises(MmfastError, match="'no/such/folder/here' cannot be loaded"):
        find_model("no/such/folder/here", "Use the light encoder")
    with pytest.raises(MmfastError, match=r"holds no config\.json"):
        find_model(str(tmp_path), "Use the light encoder")


def test_weights_that_are_damaged_or_of_another_model_are_told(folders, tmp_path):
    save_llama(tmp_path / "cut")
    whole = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MmfastError, match="does not load with AutoModelForCausalLM"):
        chat(tmp_path / "cut").reply([Question("a", "Which?")])
    folder = folders["mistral"][1]  # a MistralModel has no language head
    with pytest.raises(MmfastError, match="lacks 1 tensors of MistralForCausalLM, such as lm_head"):
        chat(folder, template="llama2").reply([Question("a", "Which?")])
