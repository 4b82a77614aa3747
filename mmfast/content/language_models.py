"""Language models on this machine, through transformers: chat, choice among candidates, and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import Field

from mmfast.config import Config
from mmfast.content.chat import Question, Reply
from mmfast.content.devices import enough_memory, pick_device
from mmfast.content.hub_models import find_model, load_network, load_part
from mmfast.content.images import Unreadable, open_picture
from mmfast.errors import MmfastError

# What templates that print the day print, as Llama 3's do: a prompt must not change from day to day, its key would not.
PROMPT_DATE = "26 Jul 2024"
SAME_DAY = "{%- macro strftime_now(format) -%}" + PROMPT_DATE + "{%- endmacro -%}"
# LLaMA-2 chat's own form of one question, for tokenizers saved without a template.
LLAMA2_TEMPLATE = "{{ bos_token }}[INST] {{ messages[0]['content'] | trim }} [/INST]"


class LocalSettings(Config):
    """A model that transformers loads on this machine."""

    model: str = Field("llama-2-7b-chat", min_length=1)
    """Preset, name on Hugging Face, or folder as save_pretrained writes it."""
    device: str = "auto"
    """auto (CUDA where torch sees a GPU, else the CPU), cpu, cuda or cuda:N."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the weights and of the computation."""
    batch_size: int = Field(8, ge=1)
    """Items answered at once; another size may change the rounding, so it belongs to the key of an answer."""
    template: Literal["own", "llama2"] = "own"
    """Chat template: the tokenizer's own, or LLaMA-2 chat's for tokenizers saved without one."""


class VisionSettings(LocalSettings):
    """A model that reads pictures on this machine."""

    model: str = Field("llama-3.2-11b-vision-instruct", min_length=1)
    """Preset, name on Hugging Face, or folder as save_pretrained writes it."""
    batch_size: int = Field(4, ge=1)
    """Pictures described at once."""


class _Local:
    """What both kinds of local models share: weights that load at the first question, and greedy decoding."""

    concurrency = 1

    def __init__(self, settings: LocalSettings, max_new_tokens: int, instead: str) -> None:
        self._options, self.max_new_tokens, self.block = settings, max_new_tokens, settings.batch_size
        self._files = find_model(settings.model, instead)
        self.tag = self._files.tag
        self.settings = {
            "max_new_tokens": max_new_tokens,
            **settings.model_dump(include={"dtype", "batch_size", "template"}),
            "date": PROMPT_DATE,
            "transformers": version("transformers"),
        }

    def stop(self) -> None:
        """Do nothing: a local model never waits."""

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return 0: tokens computed here have no price."""
        return 0.0

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return pick_device(self._options.device)

    def _load(self, kind: Any) -> Any:
        network = load_network(kind, self._files, self._options.dtype)
        with self._memory():
            return network.to(self.device)

    def _memory(self) -> AbstractContextManager[None]:
        halved = ["dtype=bfloat16"] if self._options.dtype == "float32" else []
        return enough_memory(f"'{self._options.model}'", "a smaller batch_size", *halved)

    def _too_long(self, model: Any, prompt_tokens: int, new_tokens: int) -> str:
        most = model.config.get_text_config().max_position_embeddings
        long = prompt_tokens + new_tokens > most
        return f"the prompt has {prompt_tokens} tokens, and the model takes {most - new_tokens}" if long else ""

    def _generate(self, model: Any, tokenizer: Any, inputs: dict[str, torch.Tensor]) -> list[Reply]:
        """Return the most probable continuation of left-padded prompts, cut at the first end token."""
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        out = model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
        )
        ends = _end_tokens(model, tokenizer)
        new = out[:, inputs["input_ids"].shape[1] :].tolist()
        replies = []
        for row, tokens in enumerate(new):
            length = next((n + 1 for n, token in enumerate(tokens) if token in ends), len(tokens))
            text = tokenizer.decode(tokens[:length], skip_special_tokens=True).strip()
            replies.append(Reply(text, int(inputs["attention_mask"][row].sum()), length))
        return replies


class LocalChat(_Local):
    """A causal language model with a chat template, such as LLaMA-2 chat.

    >>> LocalChat(LocalSettings(model="llama-2-7b-chat"), 16, "label by hand")  # doctest: +SKIP

    Raises MmfastError when the weights are not there or the tokenizer has no chat template.
    """

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded at first use."""
        from transformers import AutoTokenizer

        tokenizer = load_part(AutoTokenizer, self._files)
        if self._options.template == "own" and not tokenizer.chat_template:
            raise MmfastError(f"the tokenizer of '{self._options.model}' has no chat template; set template=llama2")
        return tokenizer

    @cached_property
    def model(self) -> Any:
        """The model, loaded at first use."""
        from transformers import AutoModelForCausalLM

        return self._load(AutoModelForCausalLM)

    def tokens(self, prompt: str) -> list[int]:
        """Return the token ids of a question in the chat template, up to where the answer starts."""
        template = LLAMA2_TEMPLATE if self._options.template == "llama2" else self.tokenizer.get_chat_template()
        messages = [{"role": "user", "content": prompt}]
        encoded = self.tokenizer.apply_chat_template(
            messages,
            chat_template=SAME_DAY + template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        return list(encoded["input_ids"])

    @torch.inference_mode()
    def reply(self, questions: Sequence[Question]) -> list[Reply]:
        """Return the most probable answer to each question, all in one batch."""
        prompts = [self.tokens(question.prompt) for question in questions]
        reasons = [self._too_long(self.model, len(prompt), self.max_new_tokens) for prompt in prompts]
        short = [prompt for prompt, reason in zip(prompts, reasons, strict=True) if not reason]
        with self._memory():
            answers = iter(self._generate(self.model, self.tokenizer, self._padded(short)) if short else [])
        return [Reply(failure=reason) if reason else next(answers) for reason in reasons]

    @torch.inference_mode()
    def choose(self, prompt: str, candidates: Sequence[str], mean: bool = False) -> Reply:
        """Return the candidate that is the most probable whole answer; `scores` holds log p of each candidate.

        The end of the answer counts with a candidate's own tokens: "tablecloth" would never be more probable than its
        beginning "table". mean: the mean of log p over these tokens, which does not favour short ones, instead of the
        sum.
        """
        ids, ends = self.tokens(prompt), _end_tokens(self.model, self.tokenizer)
        if not ends:
            raise MmfastError(f"the tokenizer of '{self._options.model}' has no end token; set choose=answer")
        words = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in candidates]
        if reason := self._too_long(self.model, len(ids), max(map(len, words)) + 1):
            return Reply(failure=reason)
        with self._memory():
            log_p = self._log_probabilities(ids, words, ends)
        scores = tuple(sum(row) / (len(row) if mean else 1) for row in log_p)
        if not all(map(math.isfinite, scores)):
            return Reply(failure=f"the model's probabilities are no numbers in {self._options.dtype}; try bfloat16")
        best = max(range(len(scores)), key=scores.__getitem__)
        return Reply(candidates[best], len(ids), sum(map(len, log_p)), scores=scores)

    def _log_probabilities(self, ids: list[int], words: Sequence[list[int]], ends: list[int]) -> list[list[float]]:
        """Return log p of every token of each word after a prompt, and then of any of the end tokens.

        The prompt is computed once; the words follow it as one right-padded batch on its cached keys and values.
        """
        longest = max(map(len, words))
        first = self.model(torch.tensor([ids], device=self.device), use_cache=True, logits_to_keep=1)
        padded = torch.tensor([word + [0] * (longest - len(word)) for word in words], device=self.device)
        first.past_key_values.batch_repeat_interleave(len(words))
        rest = self.model(padded, past_key_values=first.past_key_values)
        logits = torch.cat([first.logits[:, -1:].expand(len(words), -1, -1), rest.logits], dim=1)
        log_p = logits.float().log_softmax(dim=-1)  # [words, longest + 1, vocabulary]
        return [
            [*(float(row[n, token]) for n, token in enumerate(word)), float(row[len(word), ends].logsumexp(0))]
            for row, word in zip(log_p, words, strict=True)
        ]

    def _padded(self, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        longest = max(map(len, prompts))
        # Any id will do where the mask is 0; LLaMA-2 has no token for padding.
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}


class LocalVision(_Local):
    """A model that reads a picture and a prompt, such as Llama-3.2-Vision-Instruct (MllamaForConditionalGeneration).

    >>> LocalVision(LocalSettings(model="llama-3.2-11b-vision-instruct"), 256, "use CLIP")  # doctest: +SKIP

    Raises MmfastError when the weights are not there, or are those of a model that reads no pictures.
    """

    @cached_property
    def processor(self) -> Any:
        """The tokenizer and the preparation of pictures, loaded at first use."""
        from transformers import AutoProcessor

        processor = load_part(AutoProcessor, self._files)
        if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
            raise MmfastError(
                f"'{self._options.model}' does not read both pictures and texts; choose an image-text-to-text model, "
                "such as llama-3.2-11b-vision-instruct"
            )
        processor.tokenizer.padding_side = "left"  # a continuation starts right after the prompt
        return processor

    @cached_property
    def model(self) -> Any:
        """The model, loaded at first use."""
        from transformers import AutoModelForImageTextToText

        return self._load(AutoModelForImageTextToText)

    @torch.inference_mode()
    def reply(self, questions: Sequence[Question]) -> list[Reply]:
        """Return the most probable answer to each question; a picture that cannot be read is a failure of its own."""
        pictures, chats, replies = [], [], [Reply()] * len(questions)
        for n, question in enumerate(questions):
            try:
                pictures.append(open_picture(question.image, question.image_hash))
            except Unreadable as error:
                replies[n] = Reply(failure=f"picture: {error}", attempts=0)
                continue
            content = [{"type": "image"}, {"type": "text", "text": question.prompt}]
            chats.append([{"role": "user", "content": content}])
        with self._memory():
            answers = iter(self._continue(pictures, chats) if chats else [])
        return [reply if reply.failure else next(answers) for reply in replies]

    def _continue(self, pictures: list[Image.Image], chats: list[list[dict[str, Any]]]) -> list[Reply]:
        template = self.processor.chat_template
        template = template["default"] if isinstance(template, dict) else template
        prompts = self.processor.apply_chat_template(
            chats, chat_template=template and SAME_DAY + template, add_generation_prompt=True, tokenize=False
        )
        bos = self.processor.tokenizer.bos_token
        inputs = self.processor(
            images=[[picture] for picture in pictures],
            text=prompts,
            add_special_tokens=not (bos and prompts[0].startswith(bos)),  # most templates begin with it themselves
            padding=True,
            return_tensors="pt",
        )
        inputs = inputs.to(self.device, dtype=self.model.dtype)
        return self._generate(self.model, self.processor.tokenizer, dict(inputs))


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: where generation stops, which need not be where the tokenizer ends a text.

    Gemma's answers end with <end_of_turn>, Phi-3's with <|end|>; their tokenizers know neither as the end.
    """
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    width = model.config.get_text_config().vocab_size  # a token past the output's width is never said
    return sorted({end for end in (ends if isinstance(ends, list) else [ends]) if end is not None and end < width})
