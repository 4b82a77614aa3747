"""Tiny random models of the real classes, saved in the real formats, with tokenizers of the real kinds."""

from __future__ import annotations

import torch

from mmfast.content.weights import need_package

WORDS = ("mug", "table", "rug", "lamp", "listing", "candidate")
CHARACTERS = [chr(n) for n in range(33, 127)]
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|image|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2_CHAT = "{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,  # so that answers follow the whole prompt, and no two tokens are nearly as probable
}


def llama_tokenizer(template=LLAMA2_CHAT):
    """LLaMA-2's kind: pieces that begin with the mark of a space, bytes for what is unknown."""
    need_package("transformers", "language models")
    from transformers import LlamaTokenizer

    vocab = {token: n for n, token in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))])}
    for piece in ["▁", "\n", *CHARACTERS]:
        vocab.setdefault(piece, len(vocab))
    merges = []
    for word in WORDS:
        piece = "▁"
        for letter in word:
            if (piece, letter) not in merges:
                merges.append((piece, letter))
            piece += letter
            vocab.setdefault(piece, len(vocab))
    tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    tokenizer.chat_template = template
    return tokenizer


def llama3_tokenizer():
    """LLaMA-3's kind: pieces of bytes, and special tokens for roles and pictures."""
    need_package("transformers", "language models")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        additional_special_tokens=special,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*special, "<|image|>"]})
    return tokenizer


def save_llama(folder, seed=0, template=LLAMA2_CHAT, **changes):
    """Save a random LlamaForCausalLM and its tokenizer; return the model."""
    tokenizer = llama_tokenizer(template)
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **{**SIZES, **changes})
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def save_parrot(folder, answers, template=LLAMA2_CHAT, end=None):
    """Save a LlamaForCausalLM that continues a prompt by its last piece alone: {piece: answer}.

    Its layers add nothing to the embeddings, which tell every piece from all others, and its head turns each piece of
    an answer into the next one, and the last into the end token: `end`, or the tokenizer's.
    """
    tokenizer = llama_tokenizer(template)
    end = end or tokenizer.eos_token_id
    from transformers import LlamaConfig, LlamaForCausalLM

    width = -(-len(tokenizer) // 8) * 8
    sizes = {**SIZES, "hidden_size": width, "num_hidden_layers": 1, "head_dim": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **sizes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.fill_diagonal_(1)
        for last, answer in answers.items():
            chain = [*tokenizer(answer, add_special_tokens=False)["input_ids"], end]
            for now, then in zip([tokenizer.convert_tokens_to_ids(last), *chain], chain, strict=False):
                model.lm_head.weight[then, now] = 1
    model.generation_config.eos_token_id = [end]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def save_mistral(folder, seed=0):
    """Save a random MistralModel and its tokenizer; return the model."""
    tokenizer = llama_tokenizer(None)
    from transformers import MistralConfig, MistralModel

    torch.manual_seed(seed)
    model = MistralModel(MistralConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **SIZES)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def save_mllama(folder, seed=0):
    """Save a random MllamaForConditionalGeneration with its processor; return the model."""
    tokenizer = llama3_tokenizer()
    from transformers import MllamaForConditionalGeneration, MllamaImageProcessor, MllamaProcessor

    torch.manual_seed(seed)
    model = MllamaForConditionalGeneration(mllama_config(tokenizer)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate" in name:
                weight.fill_(1.0)  # at 0, as they start, the picture would be ignored
    model.save_pretrained(folder)
    pictures = MllamaImageProcessor(size={"height": 56, "width": 56}, max_image_tiles=4)
    MllamaProcessor(pictures, tokenizer, chat_template=LLAMA3_TEMPLATE).save_pretrained(folder)
    return model


def mllama_config(tokenizer):
    """A small MllamaConfig; as in the real one, the picture's token lies behind the vocabulary of the head."""
    from transformers import MllamaConfig
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

    image_token = tokenizer.convert_tokens_to_ids("<|image|>")
    assert image_token == len(tokenizer) - 1
    text = MllamaTextConfig(
        vocab_size=image_token,
        cross_attention_layers=[1],
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        **SIZES,
    )
    vision = MllamaVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=2,
        image_size=56,
        intermediate_layers_indices=[0],
        vision_output_dim=32,
        initializer_range=0.4,
    )
    return MllamaConfig(vision_config=vision, text_config=text, image_token_index=image_token)
