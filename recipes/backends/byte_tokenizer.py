"""A tokenizer of bytes in a few lines, for the mock backend: ChatML, one id per byte, no package needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recipes.errors import RenderingError

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)


class ByteTokenizer:
    """The part of a Hugging Face tokenizer that recipes use. Ids 0-255 are bytes, the rest the special tokens."""

    chat_template = "chatml"
    bos_token = None
    eos_token = "<|im_end|>"  # nosec B105 # no password
    is_fast = False

    def __init__(self) -> None:
        self.added_tokens_decoder = {256 + index: token for index, token in enumerate(SPECIAL_TOKENS)}
        self.all_special_ids = list(self.added_tokens_decoder)
        self.eos_token_id = 256 + SPECIAL_TOKENS.index(self.eos_token)

    def __len__(self) -> int:
        return VOCAB_SIZE

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        return self.chat_template

    def encode(self, text: str, add_special_tokens: bool = False, verbose: bool = True) -> list[int]:
        """Bytes of the UTF-8 text; a special token written out is its one id."""
        ids: list[int] = []
        while text:
            starts = {text.find(token): token for token in SPECIAL_TOKENS if token in text}
            first = min(starts, default=len(text))
            ids.extend(text[:first].encode())
            if not starts:
                break
            ids.append(256 + SPECIAL_TOKENS.index(starts[first]))
            text = text[first + len(starts[first]) :]
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        pieces = [bytes([token_id]) if token_id < 256 else self._special(token_id, skip_special_tokens) for token_id in ids]
        return b"".join(pieces).decode(errors="replace")

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, tokenize: bool = False, **_: Any
    ) -> Any:
        """ChatML. Raises RenderingError for content that is no text."""
        for index, message in enumerate(messages):
            if not isinstance(message.get("content") or "", str):
                raise RenderingError("The mock backend's template reads text only.", field=f"messages[{index}].content")
        text = "".join(f"<|im_start|>{message['role']}\n{message.get('content') or ''}<|im_end|>\n" for message in messages)
        text += "<|im_start|>assistant\n" if add_generation_prompt else ""
        return self.encode(text) if tokenize else text

    def _special(self, token_id: int, skip: bool) -> bytes:
        return b"" if skip else self.added_tokens_decoder[token_id].encode()
