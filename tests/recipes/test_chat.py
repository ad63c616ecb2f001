"""Replies from servers that refuse, fail, talk nonsense or say nothing; and from a local model."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from recipes.chat import LocalChat, Reply, split_reasoning
from recipes.endpoint import EndpointChat
from recipes.errors import BackendError, ConfigError, ErrorKind, RenderingError
from recipes.eval_config import Endpoint
from recipes.rendering import load_tokenizer, render_prompt
from recipes.types import SampledSequence, SampleResult, SamplingParams, StopReason
from tests.recipes.chat_server import Answer, Behaviour, ChatServer, chat_server, completion, echo, refusal

HELLO = [{"role": "user", "content": "hello"}]


def ask(
    server: ChatServer | str, *, num_samples: int = 1, times: int = 1, params: SamplingParams | None = None, **options: Any
) -> list[Reply]:
    """`times` calls one after the other on one client; the replies of the last."""
    base_url = server if isinstance(server, str) else server.base_url
    fields = {"timeout_seconds": 60.0, "max_retries": 2} | {
        k: options.pop(k) for k in ("timeout_seconds", "max_retries") if k in options
    }
    endpoint = Endpoint(base_url=base_url, model="m", **fields)
    asked = options.pop("tools", None)
    messages = options.pop("messages", HELLO)

    async def run() -> list[Reply]:
        client = EndpointChat(endpoint, **options)
        try:
            for _ in range(times):
                replies = await client.sample(messages, params or SamplingParams(), num_samples, tools=asked)
            return replies
        finally:
            await client.close()

    return asyncio.run(run())


def failure(behaviour: Behaviour | str, **options: Any) -> BackendError:
    with pytest.raises(BackendError) as caught:
        if isinstance(behaviour, str):
            ask(behaviour, **options)
        else:
            with chat_server(behaviour) as server:
                ask(server, **options)
    return caught.value


def test_a_reply_comes_with_its_message_its_tokens_and_the_key_was_sent() -> None:
    with chat_server() as server:
        [reply] = ask(
            server, api_key="sk-1", params=SamplingParams(max_tokens=9, temperature=0.5, top_p=0.9, top_k=4, seed=3, stop=("x",))
        )
    assert (reply.text, reply.stop_reason, reply.num_prompt_tokens, reply.num_tokens) == ("hello 3", "stop", 7, 5)
    assert reply.message == {"role": "assistant", "content": "hello 3"}
    assert server.keys == ["Bearer sk-1"]
    sent = server.requests[0]
    assert {key: sent[key] for key in sent if key != "messages"} == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "seed": 3,
        "stop": ["x"],
    }


def test_several_samples_are_one_request_where_the_server_allows_it() -> None:
    with chat_server() as server:
        replies = ask(server, num_samples=4, params=SamplingParams(seed=10))
    assert [reply.text for reply in replies] == ["hello 10", "hello 11", "hello 12", "hello 13"]
    assert [request.get("n") for request in server.requests] == [4]
    assert sum(reply.num_tokens for reply in replies) == 20


@pytest.mark.parametrize("refuses", [True, False])
def test_a_server_that_gives_one_sample_at_a_time_is_asked_one_by_one_with_the_same_seeds(refuses: bool) -> None:
    def one(request: dict[str, Any], number: int) -> Answer:
        if refuses and request.get("n", 1) > 1:
            return refusal(400, "n must be 1")
        return echo({**request, "n": 1}, number)

    with chat_server(one) as server:
        replies = ask(server, num_samples=3, times=2, params=SamplingParams(seed=10))
    assert [reply.text for reply in replies] == ["hello 10", "hello 11", "hello 12"]
    assert [request.get("n", 1) for request in server.requests].count(3) == 1, "it is asked for several only once"


def test_one_refusal_among_single_samples_is_the_failure_of_the_call_and_no_group_of_failures() -> None:
    def one_by_one(request: dict[str, Any], number: int) -> Answer:
        return refusal(500, "full") if number == 2 else completion(["ok"])  # whatever `n` was asked

    error = failure(one_by_one, num_samples=4, max_retries=0)
    assert error.kind is ErrorKind.SERVER and "500: full" in str(error)


def test_a_refused_key_is_an_auth_failure_and_is_not_tried_again() -> None:
    with chat_server(lambda request, number: refusal(401, "bad key")) as server, pytest.raises(BackendError) as caught:
        ask(server, api_key="sk-wrong")
    assert caught.value.kind is ErrorKind.AUTH
    assert caught.value.permanent
    assert "401: bad key" in str(caught.value)
    assert "sk-wrong" not in str(caught.value)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again_when_it_says_so() -> None:
    def busy_once(request: dict[str, Any], number: int) -> Answer:
        return refusal(429, "slow down", Retry_After="0.1") if number == 0 else echo(request, number)

    with chat_server(busy_once) as server:
        assert ask(server)[0].text == "hello None"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        (lambda request, number: refusal(429, "quota"), ErrorKind.RATE_LIMIT, "429: quota), asked once"),
        (lambda request, number: refusal(500, "boom"), ErrorKind.SERVER, "500: boom), asked once"),
        (lambda request, number: refusal(400, "too long"), ErrorKind.REQUEST, "refuses the request (400: too long)"),
        (lambda request, number: refusal(404, "none"), ErrorKind.REQUEST, "knows no model 'm'"),
        (lambda request, number: Answer(body=b"<html>hello"), ErrorKind.BAD_ANSWER, "no chat completion"),
        (
            lambda request, number: Answer(body=b"hi", headers={"Content-Type": "text/plain"}),
            ErrorKind.BAD_ANSWER,
            "no chat completion",
        ),
        (lambda request, number: Answer(body={"choices": []}), ErrorKind.BAD_ANSWER, "no choices"),
        (lambda request, number: Answer(body={"choices": [{}]}), ErrorKind.BAD_ANSWER, "no chat completion"),
        (lambda request, number: Answer(body=[1, 2]), ErrorKind.BAD_ANSWER, "no chat completion"),
        (lambda request, number: completion([5]), ErrorKind.BAD_ANSWER, "no text"),  # type: ignore[list-item]
        (lambda request, number: Answer(502, b"\xff\xfe"), ErrorKind.SERVER, "502"),
    ],
)
def test_every_failure_is_a_sentence_with_its_kind(behaviour: Behaviour, kind: ErrorKind, words: str) -> None:
    error = failure(behaviour, max_retries=0)
    assert error.kind is kind
    assert words in str(error)
    assert str(error).startswith("The endpoint http://127.0.0.1")


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    began = time.perf_counter()
    error = failure(lambda request, number: Answer(0), timeout_seconds=0.3, max_retries=1)
    assert error.kind is ErrorKind.TIMEOUT
    assert "no answer within 0.3 seconds, asked 2 times" in str(error)
    assert time.perf_counter() - began < 30


def test_a_server_that_is_not_there_is_a_connection_failure() -> None:
    with chat_server() as gone:
        address = gone.base_url
    error = failure(address, max_retries=0)
    assert error.kind is ErrorKind.CONNECTION
    assert "cannot be reached" in str(error)


def test_words_that_a_server_does_not_know_are_replaced_or_left_out() -> None:
    def picky(request: dict[str, Any], number: int) -> Answer:
        if "max_tokens" in request:
            return refusal(400, "Unsupported parameter: use 'max_completion_tokens' instead")
        if "seed" in request:
            return refusal(422, "seed: extra inputs are not permitted")
        return echo(request, number)

    told: list[tuple[str, str]] = []
    with chat_server(picky) as server:
        params = SamplingParams(max_tokens=5, seed=1)
        assert ask(server, params=params, times=2, report=lambda level, said: told.append((level, said)))[0].text == "hello None"
    assert server.requests[-1]["max_completion_tokens"] == 5
    assert [level for level, _ in told] == ["warning"] and "takes no seed" in told[0][1], "what is left away is said, once"


def test_tool_calls_and_reasoning_are_kept_apart_from_the_text() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    with chat_server(lambda request, number: completion(["<think>hm</think> yes"], tool_calls=[call])) as server:
        [reply] = ask(server, tools=[{"type": "function", "function": {"name": "add"}}])
        [second] = ask(server, messages=[*HELLO, reply.message, {"role": "tool", "content": "2", "tool_call_id": "c1"}])
    assert (reply.text, reply.message["reasoning"]) == ("yes", "hm")
    assert reply.message["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert server.requests[0]["tools"][0]["function"]["name"] == "add"
    assert server.requests[1]["messages"][1]["tool_calls"] == [call]
    assert "reasoning" not in server.requests[1]["messages"][1]
    assert second.text == "yes"


def test_no_more_requests_run_at_once_than_allowed() -> None:
    def slow(request: dict[str, Any], number: int) -> Answer:
        time.sleep(0.05)
        return echo({**request, "n": 1}, number)

    with chat_server(slow) as server:
        assert len(ask(server, num_samples=9, concurrency=2)) == 9
    assert server.most_at_once <= 2


def test_an_address_that_may_not_be_asked_is_never_connected_to() -> None:
    with chat_server() as server:
        asked: list[str] = []
        error = failure(
            server.base_url.replace("127.0.0.1", "localhost"), allows_address=lambda a: bool(asked.append(a)), max_retries=0
        )
        assert server.requests == []
        assert error.permanent
        assert "may not be asked" in str(error)
        assert asked
        assert ask(server, allows_address=lambda address: address == "127.0.0.1")[0].text == "hello None"


def test_token_ids_cannot_stop_a_server() -> None:
    with pytest.raises(ConfigError, match="token ids"):
        ask("http://127.0.0.1:9/v1", params=SamplingParams(stop=(5,)))


@pytest.mark.parametrize(
    "address", ["ftp://x/v1", "http://", "http://u:p@x/v1", "http://x/v1?k=1", "http://x y/v1", "x", "http://x:99999/"]
)
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Endpoint(base_url=address, model="m")


class Says:
    """A SamplingClient that always says the same text."""

    def __init__(self, text: str) -> None:
        self.tokens = load_tokenizer("starter").encode(text, add_special_tokens=False)
        self.params: list[SamplingParams] = []

    async def sample_async(self, *, prompt: Any, params: SamplingParams, num_samples: int = 1, **options: Any) -> SampleResult:
        self.params.append(params)
        return SampleResult([SampledSequence(self.tokens, [-0.5] * len(self.tokens), StopReason.LENGTH)] * num_samples)

    async def compute_logprobs_async(self, prompt: Any) -> list[float | None]:
        raise AssertionError("nobody asks")


def test_a_local_reply_carries_its_tokens_and_ends_before_the_stop_text() -> None:
    client = Says("Answer: 91 STOP 5")
    chat = LocalChat(client, load_tokenizer("starter"))
    [reply, _] = asyncio.run(chat.sample(HELLO, SamplingParams(stop=("STOP",)), 2))
    assert reply.text == "Answer: 91 "
    assert reply.stop_reason == "length"
    assert reply.turn is not None
    assert reply.turn.completion_tokens == client.tokens
    assert reply.num_tokens == len(client.tokens) == len(reply.turn.logprobs)


def test_messages_that_the_chat_template_refuses_are_a_data_error() -> None:
    with pytest.raises(RenderingError):
        asyncio.run(LocalChat(Says("x"), load_tokenizer("starter")).sample([], SamplingParams()))


def test_prompts_that_are_asked_for_together_are_each_ones_own_and_a_refused_one_fails_alone() -> None:
    tokenizer = load_tokenizer("starter")
    prompts: list[list[dict[str, Any]]] = [[{"role": "user", "content": f"{number} + 1"}] for number in range(4)]
    refused: list[list[dict[str, Any]]] = [[], [{"role": "user"}]]
    heard: list[Any] = []

    class Hears(Says):
        async def sample_async(self, *, prompt: Any, **options: Any) -> SampleResult:
            heard.append(prompt)
            return await super().sample_async(prompt=prompt, **options)

    async def ask() -> list[Any]:
        chat = LocalChat(Hears("x"), tokenizer)
        asked = [chat.sample(messages, SamplingParams()) for messages in (*prompts[:2], *refused, *prompts[2:])]
        asked.append(chat.sample(prompts[0], SamplingParams(), tools=[{"type": "function", "function": {"name": "add"}}]))
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(ask())
    assert heard == [render_prompt(messages, tokenizer) for messages in (*prompts, prompts[0])]
    assert [type(each) for each in found] == [list, list, RenderingError, RenderingError, list, list, list]


def test_whoever_goes_away_leaves_the_prompts_of_the_others() -> None:
    async def ask() -> list[Any]:
        chat = LocalChat(Says("x"), load_tokenizer("starter"))
        leaving, staying = (asyncio.create_task(chat.sample(HELLO, SamplingParams())) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        return await asyncio.gather(leaving, staying, return_exceptions=True)

    left, stayed = asyncio.run(ask())
    assert isinstance(left, asyncio.CancelledError)
    assert stayed[0].text == "x"


@pytest.mark.parametrize(
    ("text", "thinks", "parts"),
    [
        ("plain", False, ("plain", "")),
        ("<think>a</think>\n b", False, ("b", "a")),
        ("a</think> b", True, ("b", "a")),
        ("still thinking 12", True, ("", "still thinking 12")),
        ("<think>cut off 12", False, ("", "cut off 12")),
    ],
)
def test_reasoning_is_no_answer(text: str, thinks: bool, parts: tuple[str, str]) -> None:
    assert split_reasoning(text, thinks=thinks) == parts
