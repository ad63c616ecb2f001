"""Replies from any OpenAI-compatible server, through the openai library: its retries, timeouts and connections are used."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from recipes.chat import Message, Reply, split_reasoning
from recipes.errors import BackendError, ConfigError, ErrorKind
from recipes.eval_config import Endpoint
from recipes.outbound import AnswerRefused, OutboundRefused, guarded_transport
from recipes.types import SamplingParams

if TYPE_CHECKING:
    import openai

_CONNECT_SECONDS = 10.0
_REASONING_KEYS = ("reasoning_content", "reasoning")


class EndpointChat:
    """A ChatClient on a server. Several samples are asked for in one request where the server allows that (`n`), else one by one.

    allows_address: is asked for each IP address before a connection to it is opened; the connection then goes to that address
    and no other. None allows all. Servers that know no `seed` or want `max_completion_tokens` are recognised by their refusal;
    `report(level, sentence)` hears what is left away for it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        api_key: str | None = None,
        concurrency: int = 32,
        allows_address: Callable[[str], bool] | None = None,
        report: Callable[[str, str], None] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.concurrency = concurrency
        self._api_key = api_key
        self._allows_address = allows_address
        self._report = report
        self._free = asyncio.Semaphore(concurrency)
        self._client: openai.AsyncOpenAI | None = None
        self._allows_many = True
        self._sends_seed = True
        self._length_key = "max_tokens"

    async def sample(
        self, messages: Sequence[Message], params: SamplingParams, num_samples: int = 1, *, tools: Sequence[Any] | None = None
    ) -> list[Reply]:
        """As ChatClient. Raises BackendError; `kind` says whose fault it was."""
        replies: list[Reply] = []
        if num_samples > 1 and self._allows_many:
            try:
                replies = (await self._ask(messages, params, num_samples, 0, tools))[:num_samples]
            except BackendError as error:
                if error.kind is not ErrorKind.REQUEST:
                    raise
        if len(replies) < num_samples:
            first, *rest = range(len(replies), num_samples)
            more = [await self._ask(messages, params, 1, first, tools)]  # one first: where that fails too, `n` was not to blame
            self._allows_many = self._allows_many and num_samples == 1
            more += await _all(self._ask(messages, params, 1, index, tools) for index in rest)
            replies += [found[0] for found in more]
        return replies

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    # ------------------------------------------------------------------ one request

    async def _ask(
        self, messages: Sequence[Message], params: SamplingParams, num_samples: int, index: int, tools: Sequence[Any] | None
    ) -> list[Reply]:
        import httpx2
        import openai

        wire: list[Any] = [_for_wire(message) for message in messages]
        while True:
            options = self._options(params, num_samples, index, tools)
            async with self._free:
                began = time.perf_counter()
                try:
                    client = self._open()
                    answer = await client.chat.completions.create(model=self.endpoint.model, messages=wire, **options)
                    return _replies(answer, time.perf_counter() - began)
                except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                    if not self._adapt(str(error), options):
                        raise self._failure(error) from error
                except openai.OpenAIError as error:
                    raise self._failure(error) from error
                except (httpx2.InvalidURL, UnicodeError) as error:
                    raise self._error(ErrorKind.REQUEST, f"has an address of no sense ({error}).", permanent=True) from error
                except OutboundRefused as error:
                    kind = ErrorKind.BAD_ANSWER if isinstance(error, AnswerRefused) else ErrorKind.CONNECTION
                    raise self._error(kind, str(error), permanent=True) from error
                except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
                    raise BackendError(
                        f"{self._place} answered with something that is no chat completion ({_short(error)}).",
                        permanent=False,
                        kind=ErrorKind.BAD_ANSWER,
                    ) from error

    def _options(self, params: SamplingParams, num_samples: int, index: int, tools: Sequence[Any] | None) -> dict[str, Any]:
        if any(isinstance(item, int) for item in params.stop):
            raise ConfigError("An endpoint stops at texts, not at token ids.", path=("sampling", "stop"))
        options: dict[str, Any] = {"temperature": params.temperature, self._length_key: params.max_tokens}
        optional = {
            "n": (num_samples, num_samples > 1),
            "top_p": (params.top_p, params.top_p < 1),
            "seed": ((params.seed or 0) + index, params.seed is not None and self._sends_seed),
            "stop": (list(params.stop), bool(params.stop)),
            "tools": (list(tools or ()), bool(tools)),
            "extra_body": ({"top_k": params.top_k}, params.top_k > 0),
        }
        return options | {key: value for key, (value, is_sent) in optional.items() if is_sent}

    def _adapt(self, refusal: str, options: dict[str, Any]) -> bool:
        """Whether the same request is worth sending once more, in the words that this server understands."""
        if "max_completion_tokens" in refusal and "max_tokens" in options:
            self._length_key = "max_completion_tokens"
            return True
        if "seed" in refusal and "seed" in options:
            if self._sends_seed and self._report is not None:
                self._report("warning", f"{self._place} takes no seed: the same attempts made again will be others.")
            self._sends_seed = False
            return True
        return False

    def _open(self) -> openai.AsyncOpenAI:
        if self._client is None:
            import httpx2
            import openai

            limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
            timeout = httpx2.Timeout(self.endpoint.timeout_seconds, connect=min(_CONNECT_SECONDS, self.endpoint.timeout_seconds))
            transport = guarded_transport(self._allows_address, limits) if self._allows_address is not None else None
            self._client = openai.AsyncOpenAI(
                base_url=self.endpoint.base_url,
                api_key=self._api_key or "none",
                max_retries=self.endpoint.max_retries,
                timeout=timeout,
                http_client=openai.DefaultAsyncHttpxClient(limits=limits, timeout=timeout, transport=transport),
            )
        return self._client

    # ------------------------------------------------------------------ what went wrong, in a sentence

    @property
    def _place(self) -> str:
        return f"The endpoint {self.endpoint.base_url}"

    def _failure(self, error: openai.OpenAIError) -> BackendError:
        import openai

        status = getattr(error, "status_code", None)
        said = _said(error)
        wait, tries = f"{self.endpoint.timeout_seconds:g} seconds", self.endpoint.max_retries + 1
        times = "once" if tries == 1 else f"{tries} times"
        if isinstance(error, openai.APITimeoutError):
            return self._error(ErrorKind.TIMEOUT, f"gave no answer within {wait}, asked {times}.")
        if isinstance(error, openai.APIConnectionError):
            return self._error(ErrorKind.CONNECTION, f"cannot be reached ({_short(error.__cause__ or error)}), tried {times}.")
        if status in (401, 403):
            return self._error(ErrorKind.AUTH, f"refuses the key ({status}{said}). Check the credential.", permanent=True)
        if status == 404:
            return self._error(
                ErrorKind.REQUEST,
                f"knows no model {self.endpoint.model!r}, or no chat completions there (404{said}).",
                permanent=True,
            )
        if status == 429:
            return self._error(ErrorKind.RATE_LIMIT, f"is too busy or the quota is used up (429{said}), asked {times}.")
        if isinstance(status, int) and status >= 500:
            return self._error(ErrorKind.SERVER, f"failed ({status}{said}), asked {times}.")
        if isinstance(status, int):
            return self._error(ErrorKind.REQUEST, f"refuses the request ({status}{said}).", permanent=True)
        return self._error(ErrorKind.BAD_ANSWER, f"answered with something that is no chat completion ({_short(error)}).")

    def _error(self, kind: ErrorKind, what: str, *, permanent: bool = False) -> BackendError:
        return BackendError(f"{self._place} {what}", permanent=permanent, kind=kind)


async def _all(calls: Any) -> list[Any]:
    """As asyncio.gather, but the first failure ends the others, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _for_wire(message: Message) -> dict[str, Any]:
    """In OpenAI's spelling: reasoning is left out, arguments of tool calls are JSON text, each call has an id."""
    wire = {key: value for key, value in message.items() if key != "reasoning"}
    if wire.get("tool_calls"):
        wire["tool_calls"] = [
            {"id": call.get("id", f"call_{index}"), "type": "function", "function": _function_for_wire(call["function"])}
            for index, call in enumerate(wire["tool_calls"])
        ]
    return wire


def _function_for_wire(function: Any) -> dict[str, Any]:
    arguments = function.get("arguments", {})
    return {"name": function["name"], "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}


def _replies(answer: Any, seconds: float) -> list[Reply]:
    """Raises ValueError, TypeError or AttributeError when the answer has not the shape of a chat completion."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"no choices in {str(answer)[:80]!r}")
    usage = getattr(answer, "usage", None)
    num_prompt, total = (int(getattr(usage, key, None) or 0) for key in ("prompt_tokens", "completion_tokens"))
    shares = [total // len(choices) + (index < total % len(choices)) for index in range(len(choices))]
    return [_reply(choice, num_prompt, share, seconds) for choice, share in zip(choices, shares, strict=True)]


def _reply(choice: Any, num_prompt_tokens: int, num_tokens: int, seconds: float) -> Reply:
    said = choice.message
    if said.content is not None and not isinstance(said.content, str):
        raise ValueError("the content is no text")
    extra = said.model_extra or {}
    content, reasoning = split_reasoning(said.content or "")
    reasoning = next((extra[key] for key in _REASONING_KEYS if isinstance(extra.get(key), str) and extra[key]), reasoning)
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning"] = reasoning
    if said.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in said.tool_calls]
    if said.content is None and not said.tool_calls and not reasoning and getattr(said, "refusal", None):
        message["content"] = content = str(said.refusal)
    return Reply(content, message, str(choice.finish_reason or "stop"), num_prompt_tokens, num_tokens, seconds)


def _tool_call(call: Any) -> dict[str, Any]:
    """Arguments as an object where they are one; what is no JSON stays text, for the verifier to judge."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except ValueError:
        arguments = call.function.arguments
    return {"id": str(call.id or ""), "type": "function", "function": {"name": str(call.function.name), "arguments": arguments}}


def _said(error: Any) -> str:
    """The server's own words, cut short."""
    body = getattr(error, "body", None)
    text = body.get("message") if isinstance(body, dict) else None
    return f": {' '.join(str(text).split())[:200]}" if text else ""


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:200]
