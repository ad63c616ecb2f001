"""The short way through a tokenizer's Rust part says what the long way says, and is not taken where more is done."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from recipes.backends.byte_tokenizer import ByteTokenizer
from recipes.chat_templates import decode, encode, encode_all, load_tokenizer

TEXTS = [
    "",
    "Lena has 52 books.",
    "<|im_start|>user\nHow many ?<|im_end|>\n",
    "Zwölf 🦊 , it 's\t\n ok .",
    "<think>\n1 + 1\n</think>2",
]


@pytest.fixture
def tokenizer() -> Any:
    return deepcopy(load_tokenizer("starter"))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("setting", ["none", "truncation", "padding", "split_special_tokens", "clean_up"])
def test_ids_and_texts_are_the_tokenizers_own(tokenizer: Any, text: str, setting: str) -> None:
    if setting == "truncation":
        tokenizer.backend_tokenizer.enable_truncation(3)
    if setting == "padding":
        tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.split_special_tokens = setting == "split_special_tokens"
    tokenizer.clean_up_tokenization_spaces = setting == "clean_up"
    ids = encode(deepcopy(tokenizer), text)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert encode_all(tokenizer, [text, *TEXTS]) == [ids, *(encode(tokenizer, other) for other in TEXTS)]
    assert decode(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_tokenizer_that_adds_something_of_its_own_keeps_it(tokenizer: Any) -> None:
    class Shouting(type(tokenizer)):  # type: ignore[misc]
        def _decode(self, *args: Any, **options: Any) -> str:
            return str(super()._decode(*args, **options)).upper()

    ids = encode(tokenizer, "books")
    tokenizer.__class__ = Shouting
    assert decode(tokenizer, ids) == "BOOKS"
    assert decode(ByteTokenizer(), [104, 105]) == "hi"
