"""Messages to token ids and weights: training, sampling and the mask preview share it.

How a mask is found: the template renders the conversation up to a reply, with its generation prompt; what the whole
conversation has beyond that belongs to the reply. So the role header is not trained and the end-of-turn marker is. This only
holds where the shorter rendering is a token prefix of the longer one. Where it is not (templates that strip earlier reasoning,
tokenizers that merge across the boundary) each reply can still be trained as a sequence of its own, see `render_sequences`;
where even that fails, a RenderingError says which turn and why. No mask is ever a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from recipes.chat_templates import (
    RENDERERS,
    Conversation,
    Message,
    check_renderer,
    common_length,
    control_ids,
    encode_all,
    load_tokenizer,
    place,
    prompt_texts,
    with_renderer,
)
from recipes.errors import ConfigError, RenderingError
from recipes.types import Datum, float_array, int_array

__all__ = [
    "RENDERERS",
    "Asked",
    "Finding",
    "PreviewToken",
    "Prompt",
    "Rendered",
    "Supervise",
    "check_renderer",
    "datum_of",
    "hard_checks",
    "load_tokenizer",
    "prompt_for_preview",
    "render",
    "render_prompt",
    "render_prompts",
    "render_sequences",
    "tokens_for_preview",
    "with_renderer",
]


class Supervise(StrEnum):
    ALL_ASSISTANT = "all_assistant"
    LAST_ASSISTANT = "last_assistant"


@dataclass(frozen=True, slots=True)
class Rendered:
    """One token sequence. token_ids, weights: both length L; weight 1 where the token is trained, else 0.

    truncated: how many tokens were cut off the end. unrendered: fields of supervised turns that the template left out.
    has_control_text: a message spells out a control token such as <|im_end|>, which is read as one.
    """

    token_ids: list[int]
    weights: list[float]
    truncated: int = 0
    unrendered: tuple[str, ...] = ()
    has_control_text: bool = False

    @property
    def num_trained(self) -> int:
        return sum(weight != 0 for weight in self.weights)


class PreviewToken(NamedTuple):
    """One token as a person sees it; `sequence` counts up where a conversation had to be split (`render_sequences`)."""

    text: str
    trained: bool
    id: int
    sequence: int = 0


class Finding(NamedTuple):
    """What a hard check found in `num_found` of `total` sequences. level: error (training is pointless) or warning."""

    check: str
    level: str
    num_found: int
    total: int
    message: str


def render(
    messages: Sequence[Message],
    tokenizer: Any,
    *,
    supervise: str = Supervise.ALL_ASSISTANT,
    enable_thinking: bool | None = None,
    max_seq_len: int | None = None,
    tools: Sequence[Any] | None = None,
) -> Rendered:
    """The conversation as one sequence, up to its last assistant turn (what follows that could teach nothing).

    Raises RenderingError when there is no assistant turn, the template refuses the messages, or no exact mask exists.
    """
    conversation = Conversation.of(messages, tokenizer, enable_thinking, tools)
    turns = _supervised_turns(conversation, supervise)
    return _finished(conversation, _render_one(conversation, turns), max_seq_len)


def render_sequences(
    messages: Sequence[Message],
    tokenizer: Any,
    *,
    supervise: str = Supervise.ALL_ASSISTANT,
    enable_thinking: bool | None = None,
    max_seq_len: int | None = None,
    tools: Sequence[Any] | None = None,
    first_turn: int = 0,
) -> list[Rendered]:
    """As `render`, but a conversation that has no exact mask as one sequence becomes one sequence per supervised turn.
    Messages before `first_turn`, an index, are context: nothing of them is trained.

    That is what the model reads when it is asked for each turn: a template that strips earlier reasoning shows every reply
    with its own reasoning, and only that reply is trained. Raises RenderingError as `render`.
    """
    conversation = Conversation.of(messages, tokenizer, enable_thinking, tools)
    turns = _supervised_turns(conversation, supervise, first_turn)
    try:
        sequences = [_render_one(conversation, turns)]
    except _NotAPrefix:
        sequences = [_render_turn(conversation, turn) for turn in turns]
    return [_finished(conversation, sequence, max_seq_len) for sequence in sequences]


class Prompt(NamedTuple):
    """What a reply is sampled from: the conversation with the template's generation prompt."""

    text: str
    token_ids: list[int]


Asked = tuple[Sequence[Message], Sequence[Any] | None]
"""The messages of a conversation, and the tools it may call."""


def render_prompts(
    asked: Sequence[Asked], tokenizer: Any, *, enable_thinking: bool | None = None
) -> list[Prompt | RenderingError]:
    """The prompt of each conversation, or why there is none."""
    texts = prompt_texts([Conversation.of(messages, tokenizer, enable_thinking, tools) for messages, tools in asked])
    encoded = iter(encode_all(tokenizer, [text for text in texts if isinstance(text, str)]))
    return [Prompt(text, next(encoded)) if isinstance(text, str) else text for text in texts]


def render_prompt(
    messages: Sequence[Message], tokenizer: Any, *, enable_thinking: bool | None = None, tools: Sequence[Any] | None = None
) -> list[int]:
    """Token ids to sample a reply from. Raises RenderingError."""
    [prompt] = render_prompts([(messages, tools)], tokenizer, enable_thinking=enable_thinking)
    if isinstance(prompt, RenderingError):
        raise prompt
    return prompt.token_ids


def datum_of(rendered: Rendered) -> Datum:
    """Shift by one: position i reads token i and predicts token i + 1, with that token's weight. Needs two tokens."""
    if len(rendered.token_ids) < 2:
        raise RenderingError("A sequence of fewer than two tokens predicts nothing.")
    ids = int_array(rendered.token_ids)
    return Datum(
        model_input=ids[:-1],
        loss_fn_inputs={"target_tokens": ids[1:], "weights": float_array(rendered.weights)[1:]},
    )


def tokens_for_preview(
    messages: Sequence[Message],
    tokenizer: Any,
    *,
    supervise: str = Supervise.ALL_ASSISTANT,
    enable_thinking: bool | None = None,
    max_seq_len: int | None = None,
    tools: Sequence[Any] | None = None,
    first_turn: int = 0,
) -> list[PreviewToken]:
    """Exactly what training reads, token by token. Raises RenderingError as `render_sequences`."""
    sequences = render_sequences(
        messages,
        tokenizer,
        supervise=supervise,
        enable_thinking=enable_thinking,
        max_seq_len=max_seq_len,
        tools=tools,
        first_turn=first_turn,
    )
    return [
        PreviewToken(text, weight != 0, token_id, number)
        for number, sequence in enumerate(sequences)
        for text, weight, token_id in zip(
            _token_texts(sequence.token_ids, tokenizer), sequence.weights, sequence.token_ids, strict=True
        )
    ]


def prompt_for_preview(
    messages: Sequence[Message], tokenizer: Any, *, enable_thinking: bool | None = None, tools: Sequence[Any] | None = None
) -> list[PreviewToken]:
    """What a model reads before it replies, token by token; nothing of it is trained. Raises RenderingError."""
    ids = render_prompt(messages, tokenizer, enable_thinking=enable_thinking, tools=tools)
    return [PreviewToken(text, False, token_id) for text, token_id in zip(_token_texts(ids, tokenizer), ids, strict=True)]


def hard_checks(sequences: Sequence[Rendered], tokenizer: Any) -> list[Finding]:
    """What is certainly wrong, or probably not meant, with sequences about to be trained. Empty when all is well."""
    control, total = control_ids(tokenizer), len(sequences)
    findings = []
    for check, (is_found, sentence) in _CHECKS.items():
        num_found = sum(is_found(sequence, control) for sequence in sequences)
        level = "error" if check == "nothing_trained" and num_found == total else "warning"
        if num_found:
            findings.append(Finding(check, level, num_found, total, f"{num_found:,} of {total:,} sequences {sentence}"))
    return findings


_CHECKS: dict[str, tuple[Callable[[Rendered, frozenset[int]], bool], str]] = {
    "nothing_trained": (
        lambda sequence, control: not sequence.num_trained,
        "have no trained token and will be left out; a larger max_seq_len may keep them.",
    ),
    "everything_trained": (
        lambda sequence, control: sequence.num_trained >= max(1, len(sequence.token_ids) - 1),
        "are trained on every token: nothing is left as context.",
    ),
    "end_of_turn_untrained": (
        lambda sequence, control: _has_open_end(sequence, control),
        "hold a reply without a trained end-of-turn marker: the model will not learn to stop.",
    ),
    "truncated": (
        lambda sequence, control: sequence.truncated > 0,
        "are longer than max_seq_len and lose their end.",
    ),
    "unrendered": (
        lambda sequence, control: bool(sequence.unrendered),
        "have reasoning or tool calls in a reply that the chat template leaves out: they are not trained.",
    ),
    "control_text": (
        lambda sequence, control: sequence.has_control_text,
        "spell out a control token of this model in a message: it ends or begins a turn there instead of being text.",
    ),
}


class _NotAPrefix(RenderingError):
    """The rendering up to a turn is not a token prefix of the whole: no exact mask as one sequence."""


class _Merged(_NotAPrefix):
    """It is one as text, but a token lies across the boundary."""


def _supervised_turns(conversation: Conversation, supervise: str, first_turn: int = 0) -> list[int]:
    """Indices of the messages that are trained, in order."""
    messages = enumerate(conversation.messages)
    turns = [index for index, message in messages if index >= first_turn and message.get("role") == "assistant"]
    if not turns:
        raise RenderingError("The conversation has no assistant turn, so nothing in it can be trained.", field="messages")
    if supervise not in list(Supervise):
        raise ConfigError(f"supervise is one of {', '.join(Supervise)}, not {supervise!r}.", path=("supervise",))
    return turns if supervise == Supervise.ALL_ASSISTANT else turns[-1:]


def _render_one(conversation: Conversation, turns: list[int]) -> Rendered:
    try:
        return _render_whole(conversation, turns)
    except _NotAPrefix as error:
        # The template's own marks are places in the text: where a token lies across one, they say nothing exact either.
        marked = None if isinstance(error, _Merged) else _render_marked(conversation, turns)
        if marked is not None:
            return marked
        if len(turns) > 1:
            raise
        return _render_turn(conversation, turns[0])


def _render_whole(conversation: Conversation, turns: list[int]) -> Rendered:
    """All supervised turns in one sequence, or _NotAPrefix."""
    last = turns[-1]
    text = conversation.text(last + 1)
    ids = conversation.encode(text)
    weights = [0.0] * len(ids)
    unrendered: list[str] = []
    for turn in turns:
        prompt = conversation.prompt_text(turn)
        start = _boundary(conversation, ids, text, prompt, turn)
        reply, end = text, len(ids)
        if turn != last:
            reply = conversation.text(turn + 1)
            if not text.startswith(reply):
                reply = reply.rstrip()  # a template may end the last turn with a blank that it does not write between turns
            end = _boundary(conversation, ids, text, reply, turn)
        _train(conversation, ids, weights, start, end)
        unrendered += _unrendered(conversation.messages[turn], reply[len(prompt) :])
    return Rendered(ids, weights, unrendered=tuple(sorted(set(unrendered))))


def _render_marked(conversation: Conversation, turns: list[int]) -> Rendered | None:
    """By the template's own {% generation %} marks, when it has one for every assistant turn."""
    marked = conversation.masked_by_template(turns[-1] + 1)
    if marked is None:
        return None
    ids, mask = marked
    runs = _runs(mask)
    num_assistant = sum(message.get("role") == "assistant" for message in conversation.messages[: turns[-1] + 1])
    if len(runs) != num_assistant:
        return None
    weights = [0.0] * len(ids)
    for start, end in runs[-len(turns) :]:
        weights[start:end] = [1.0] * (end - start)
    return Rendered(ids, weights)


def _render_turn(conversation: Conversation, turn: int) -> Rendered:
    """The conversation up to `turn`, of which only that turn is trained."""
    text = conversation.text(turn + 1)
    prompt = conversation.prompt_text(turn)
    if not text.startswith(prompt):
        raise _divergence(text, prompt, turn)
    head, ids = conversation.encode(prompt), conversation.encode(text)
    if ids[: len(head)] != head:
        # The tokenizer merges the end of the prompt with the start of the reply. A model that is asked to reply has read the
        # prompt's own tokens and says the reply's own: train on those, if both together still spell the same text.
        decode = conversation.tokenizer.decode
        joined = head + conversation.encode(text[len(prompt) :])
        if decode(joined) != decode(ids):
            raise _merged(turn)
        ids = joined
    weights = [0.0] * len(ids)
    _train(conversation, ids, weights, len(head), len(ids))
    return Rendered(ids, weights, unrendered=tuple(_unrendered(conversation.messages[turn], text[len(prompt) :])))


def _boundary(conversation: Conversation, ids: list[int], text: str, prefix: str, turn: int) -> int:
    """How many tokens of the whole the rendering `prefix` takes."""
    if not text.startswith(prefix):
        raise _divergence(text, prefix, turn)
    head = conversation.encode(prefix)
    if ids[: len(head)] != head:
        raise _merged(turn)
    return len(head)


def _divergence(text: str, prefix: str, turn: int) -> _NotAPrefix:
    at = common_length(text, prefix)
    return _NotAPrefix(
        f"The chat template renders {place(turn)} differently when it is asked for and when it is part of the conversation:"
        f" after {text[max(0, at - 30) : at]!r} comes {prefix[at : at + 30]!r} in one and {text[at : at + 30]!r} in the other,"
        " so its trained tokens cannot be told from the rest. Set enable_thinking, give that turn its reasoning, or"
        " choose supervise: last_assistant.",
        field=place(turn),
    )


def _merged(turn: int) -> _Merged:
    return _Merged(
        f"The tokenizer merges characters across the beginning or end of {place(turn)}, so no token boundary separates the reply"
        " from its surroundings. Choose supervise: last_assistant, or a chat template that ends turns with a special token.",
        field=place(turn),
    )


def _train(conversation: Conversation, ids: list[int], weights: list[float], start: int, end: int) -> None:
    """Weight 1 from start to end, without the blanks that a template writes after the end-of-turn marker: nobody samples them."""
    control = control_ids(conversation.tokenizer)
    marker = end - 1
    while marker >= start and ids[marker] not in control and not conversation.tokenizer.decode([ids[marker]]).strip():
        marker -= 1
    if marker >= start and ids[marker] in control:
        end = marker + 1
    weights[start:end] = [1.0] * (end - start)


def _finished(conversation: Conversation, rendered: Rendered, max_seq_len: int | None) -> Rendered:
    """Cut to max_seq_len, with what else is to be known of the sequence."""
    rendered = replace(rendered, has_control_text=conversation.has_control_text())
    length = len(rendered.token_ids)
    if max_seq_len is None or length <= max_seq_len:
        return rendered
    return replace(
        rendered,
        token_ids=rendered.token_ids[:max_seq_len],
        weights=rendered.weights[:max_seq_len],
        truncated=length - max_seq_len,
    )


def _unrendered(message: Message, reply: str) -> list[str]:
    """Fields of a supervised turn that its rendering does not show."""
    missing = []
    reasoning = message.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning.strip() and reasoning.strip() not in reply:
        missing.append("reasoning")
    names = [call.get("function", call).get("name") for call in message.get("tool_calls") or [] if isinstance(call, Mapping)]
    if any(name and str(name) not in reply for name in names):
        missing.append("tool_calls")
    return missing


def _has_open_end(sequence: Rendered, control: frozenset[int]) -> bool:
    ends = [end for _, end in _runs(sequence.weights)]
    if sequence.truncated and ends and ends[-1] == len(sequence.token_ids):
        ends.pop()  # the cut took its end: counted as truncated
    return any(sequence.token_ids[end - 1] not in control for end in ends)


def _runs(mask: Sequence[float]) -> list[tuple[int, int]]:
    """[start, end) of each stretch of non-zero values."""
    edges = [index for index, value in enumerate(mask) if bool(value) != bool(mask[index - 1] if index else 0)]
    if mask and mask[-1]:
        edges.append(len(mask))
    return list(zip(edges[::2], edges[1::2], strict=True))


def _token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text each token adds. A character spread over several tokens is shown at the last of them."""
    texts: list[str] = []
    shown: list[int] = []  # the token before: some tokenizers write a blank only between tokens
    pending: list[int] = []
    for token_id in ids:
        pending.append(token_id)
        before = tokenizer.decode(shown) if shown else ""
        text = tokenizer.decode([*shown, *pending])[len(before) :]
        if text.endswith("\ufffd") and len(pending) < 8:
            texts.append("")
            continue
        texts.append(text)
        shown, pending = [token_id] if len(pending) == 1 else pending, []
    if pending:
        texts[-1] = tokenizer.decode(pending)
    return texts
