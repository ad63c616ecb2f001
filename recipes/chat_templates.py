"""Chat templates and tokenizers: the only module that loads a tokenizer or calls a chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

from recipes.errors import ConfigError, RenderingError
from recipes.types import Row

Message = Mapping[str, Any]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")

RENDERERS = {
    "role_colon": (
        "{{ bos_token or '' }}{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] | trim }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
}
"""Chat templates by `renderer_name`, for base models that bring none (or whose own should not be used)."""


def check_renderer(name: str | None) -> str | None:
    """For a Config: the name as given. Raises ValueError for one that is no renderer."""
    if name and name not in RENDERERS:
        raise ValueError(f"leave it empty for the model's own chat template, or choose one of: {', '.join(RENDERERS)}")
    return name


_REFUSALS = (TypeError, ValueError, KeyError, AttributeError)
"""What a chat template raises beside jinja2's own errors."""

_loading = Lock()  # two threads that import transformers at once break it: one finds the package half made


def load_tokenizer(name: str, *, renderer_name: str | None = None, download: bool = True) -> Any:
    """The Hugging Face tokenizer of a model: "starter", a folder, or a hub id. Cached.

    download: False looks on this machine only and never waits for a network, for a page that is being rendered.
    Raises ConfigError when there is no tokenizer there, when it has no chat template, or when the renderer is unknown.
    """
    from recipes.backends.local.models import resolve  # knows where models lie; imports no torch

    with _loading:
        tokenizer = _load_tokenizer(str(resolve(name)), download)
    tokenizer = with_renderer(tokenizer, renderer_name)
    if not tokenizer.chat_template:
        raise ConfigError(
            f"The tokenizer of {name!r} has no chat template, so it cannot render messages. Choose the instruct variant of the"
            f" model, or set renderer_name to one of: {', '.join(RENDERERS)}.",
            path=("model", "name"),
        )
    return tokenizer


def with_renderer(tokenizer: Any, renderer_name: str | None) -> Any:
    """The tokenizer itself, or a copy whose chat template is the named one. Raises ConfigError for an unknown name."""
    if not renderer_name:
        return tokenizer
    if renderer_name not in RENDERERS:
        raise ConfigError(
            f"There is no renderer {renderer_name!r}. Leave it empty for the model's own chat template, or choose one of:"
            f" {', '.join(RENDERERS)}.",
            path=("algorithm", "params", "renderer_name"),
        )
    changed = copy(tokenizer)
    changed.chat_template = RENDERERS[renderer_name]
    return changed


@lru_cache(maxsize=8)
def _load_tokenizer(source: str, download: bool) -> Any:
    from transformers import AutoTokenizer

    is_folder = Path(source).is_dir()
    if is_folder and not any((Path(source) / file).is_file() for file in TOKENIZER_FILES):
        raise ConfigError(f"The folder {source} holds no tokenizer (no tokenizer.json in it).", path=("model", "name"))
    try:
        try:
            return AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)  # nosec B615
        except OSError:
            if is_folder or not download:
                raise
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)  # nosec B615
    except Exception as error:  # noqa: BLE001 - the Rust part raises bare Exception for a broken tokenizer.json
        raise ConfigError(_why_not_loaded(source, download or is_folder, error), path=("model", "name")) from error


def _why_not_loaded(source: str, looked_everywhere: bool, error: Exception) -> str:
    if not looked_everywhere:
        return f"The tokenizer of {source!r} is not on this machine yet; a run that uses the model fetches it."
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"The tokenizer of {source!r} cannot be loaded: {reason} Give a folder with a tokenizer, or a hub id that can be reached."
    )


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages with the template that renders them. Every method raises RenderingError when the template refuses."""

    messages: list[Row]
    tokenizer: Any
    options: dict[str, Any]

    @classmethod
    def of(
        cls, messages: Sequence[Message], tokenizer: Any, enable_thinking: bool | None, tools: Sequence[Any] | None
    ) -> Conversation:
        options: dict[str, Any] = {}
        if enable_thinking is not None:
            options["enable_thinking"] = enable_thinking
        if tools:
            options["tools"] = list(tools)
        return cls([_for_template(message) for message in messages], tokenizer, options)

    def text(self, count: int, *, prompt: bool = False, extra: Sequence[Row] = ()) -> str:
        """The template's rendering of the first `count` messages (and `extra`); `prompt` adds the generation prompt."""
        rendered = self._apply([*self.messages[:count], *extra], add_generation_prompt=prompt, tokenize=False)
        return str(rendered)

    def prompt_text(self, turn: int) -> str:
        """What the model has read when it is asked for the message `turn`: everything before it, and its role header."""
        if turn == 0:
            return self._opening_prompt()
        prompt = self.text(turn, prompt=True)
        if prompt == self.text(turn):
            # No generation prompt. That is right for templates without a role header ([INST] … [/INST] reply), but one that
            # writes a header all the same would have it trained, and leave the model without it when it is asked to reply.
            replies = [self.text(turn, extra=[{"role": "assistant", "content": content}]) for content in ("A", "B")]
            header = replies[0][: common_length(*replies)].removeprefix(prompt)
            if header.strip():
                raise RenderingError(
                    f"The chat template writes {header!r} before a reply but has no generation prompt (add_generation_prompt)"
                    " that says the same. Choose a model whose template has one, or set renderer_name.",
                    field=place(turn),
                )
        return prompt

    def masked_by_template(self, count: int) -> tuple[list[int], list[int]] | None:
        """Ids and mask of a template that marks its replies with {% generation %}; None for one that does not."""
        template = self.tokenizer.get_chat_template(None, self.options.get("tools"))
        if not re.search(r"\{%-?\s*generation\b", template) or not getattr(self.tokenizer, "is_fast", False):
            return None
        encoded = self._apply(self.messages[:count], tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        return list(encoded["input_ids"]), list(encoded["assistant_masks"])

    def has_control_text(self) -> bool:
        """Whether the text of a message spells out a special token, which the tokenizer will read as one."""
        pattern = _special_texts(self.tokenizer)
        if pattern is None:
            return False
        return any(isinstance(message.get("content"), str) and pattern.search(message["content"]) for message in self.messages)

    def encode(self, text: str) -> list[int]:
        """The template has written every special token already, so none is added here."""
        return encode(self.tokenizer, text)

    def _opening_prompt(self) -> str:
        # Templates refuse an empty conversation; the header before a reply is learnt from a conversation of one question.
        question = [{"role": "user", "content": "A"}]
        header = self._apply(question, add_generation_prompt=True, tokenize=False).removeprefix(
            self._apply(question, add_generation_prompt=False, tokenize=False)
        )
        whole = self.text(1)
        for prompt in (header, f"{self.tokenizer.bos_token or ''}{header}"):
            if header and whole.startswith(prompt):
                return str(prompt)
        raise RenderingError(
            "The conversation begins with an assistant turn, and this chat template does not say how it is asked for."
            " Put a system or user message before it, or choose supervise: last_assistant.",
            field=place(0),
        )

    def _apply(self, messages: list[Row], **arguments: Any) -> Any:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(messages, **arguments, **self.options)
        except (TemplateError, *_REFUSALS) as error:
            raise RenderingError(
                f"The chat template refuses the conversation ({len(messages)} messages, the last from"
                f" {messages[-1].get('role')!r}): {error}",
                field=place(len(messages) - 1),
            ) from error


def prompt_texts(conversations: Sequence[Conversation]) -> list[str | RenderingError]:
    """What the model reads before it replies to each, or why there is nothing. Conversations with one tokenizer and the same
    options go through the template in one call, which takes half the time."""
    from jinja2 import TemplateError

    first = conversations[0]
    kind: Any = type(first.tokenizer)
    alike = all(each.messages and each.options == first.options for each in conversations)
    if alike and len(conversations) > 1 and _takes_batches(kind):
        with suppress(TemplateError, *_REFUSALS):  # of one of them: each alone tells of which
            every = [each.messages for each in conversations]
            return list(first.tokenizer.apply_chat_template(every, add_generation_prompt=True, tokenize=False, **first.options))
    return [_prompt_text(each) for each in conversations]


def _prompt_text(conversation: Conversation) -> str | RenderingError:
    if not conversation.messages:
        return RenderingError("There are no messages to reply to.", field="messages")
    try:
        return conversation.text(len(conversation.messages), prompt=True)
    except RenderingError as error:
        return error


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text in which every special token is written out already."""
    rust = _encoding_part(tokenizer)
    if rust is None:
        return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))
    ids: list[int] = rust.encode(text, add_special_tokens=False).ids
    return ids


def encode_all(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """As `encode` of each, on every processor that is free."""
    rust = _encoding_part(tokenizer)
    if rust is None or len(texts) == 1:
        return [encode(tokenizer, text) for text in texts]
    return [found.ids for found in rust.encode_batch_fast(texts, add_special_tokens=False)]


def decode(tokenizer: Any, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
    """The text of ids, by default without special tokens."""
    text: str = decoder_of(tokenizer)(ids, skip_special_tokens=skip_special_tokens)
    return text


def decoder_of(tokenizer: Any) -> Callable[..., str]:
    """`decode` for one tokenizer, for whoever decodes many texts."""
    rust = _rust_part(tokenizer)
    if rust is None or tokenizer.clean_up_tokenization_spaces:
        return partial(tokenizer.decode, skip_special_tokens=True)
    decoder: Callable[..., str] = rust.decode
    return decoder


@lru_cache(maxsize=8)
def _takes_batches(kind: Hashable) -> bool:
    """Whether this class renders by transformers' own function, which also takes a list of conversations."""
    from transformers import PreTrainedTokenizerBase

    own = PreTrainedTokenizerBase.apply_chat_template
    return isinstance(kind, type) and issubclass(kind, PreTrainedTokenizerBase) and kind.apply_chat_template is own


@lru_cache(maxsize=8)
def _uses_rust_alone(kind: Hashable) -> bool:
    """Whether this class encodes and decodes by its Rust part and adds nothing of its own."""
    from transformers import PreTrainedTokenizerFast

    names = ("encode", "_encode_plus", "decode", "_decode")
    return (
        isinstance(kind, type)
        and issubclass(kind, PreTrainedTokenizerFast)
        and all(getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in names)
    )


def _rust_part(tokenizer: Any) -> Any:
    """What does the work inside a fast tokenizer; None where more is done than that. transformers looks at each id in Python on
    the way, which takes three times as long as the work itself."""
    kind: Any = type(tokenizer)
    return tokenizer.backend_tokenizer if _uses_rust_alone(kind) else None


def _encoding_part(tokenizer: Any) -> Any:
    """The same, and None where the tokenizer's settings ask for more than its Rust part is told."""
    rust = _rust_part(tokenizer)
    if rust is None or rust.truncation or rust.padding or rust.encode_special_tokens or tokenizer.split_special_tokens:
        return None
    return rust


@lru_cache(maxsize=8)
def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that stand beside ordinary text: end-of-turn markers among them."""
    return frozenset(tokenizer.all_special_ids) | frozenset(tokenizer.added_tokens_decoder)


@lru_cache(maxsize=8)
def _special_texts(tokenizer: Any) -> re.Pattern[str] | None:
    added = tokenizer.added_tokens_decoder.values()
    texts = {str(token) for token in added if getattr(token, "special", True)}  # <think> and the like may well be text
    return re.compile("|".join(map(re.escape, sorted(texts)))) if texts else None


def _for_template(message: Message) -> Row:
    """The message in the spelling that chat templates know: text blocks joined, reasoning_content, tool arguments as objects."""
    prepared = dict(message)
    content = prepared.get("content")
    if isinstance(content, list) and all(isinstance(block, Mapping) and block.get("type") == "text" for block in content):
        prepared["content"] = "".join(str(block.get("text", "")) for block in content)
    if prepared.get("reasoning") and not prepared.get("reasoning_content"):
        prepared["reasoning_content"] = prepared["reasoning"]
    if prepared.get("tool_calls"):
        prepared["tool_calls"] = [_with_object_arguments(call) for call in prepared["tool_calls"]]
    return prepared


def _with_object_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def common_length(first: str, second: str) -> int:
    """How many characters two texts have in common from the start."""
    length = min(len(first), len(second))
    return next((index for index in range(length) if first[index] != second[index]), length)


def place(turn: int) -> str:
    """A message by its path in the row."""
    return f"messages[{turn}]"
