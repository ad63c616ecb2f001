"""Does a key work? One cheap call each, made by the client that runs would use, in a process that is gone afterwards.

What a server answers is hostile: it may never end, fill the memory, send elsewhere, or say the key aloud. So the call is killed
when its time is over, the process may grow by little, every connection is judged by its address (redirects too, whatever the
library), and of what the server said only names get into a sentence, cut short.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from recipes.backends.waiting import in_thread
from recipes.isolation import Isolated, IsolationTimeout
from recipes.outbound import AddressRefused, guard_this_process, may_be_asked

SECONDS = 10.0
START_SECONDS = 90.0
"""For reading the client's package from a slow disk, on a busy machine: nobody is asked before."""
MOST_GROWTH_BYTES = 96 * 2**20
LONGEST_NAME = 80
NAMES_SHOWN = 3
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
VARIABLES = (*PROXIES, "SSL_CERT_", "REQUESTS_CA_BUNDLE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "AWS_")
"""Of the operator, so that a test goes the way that work goes."""


class KeyKind(StrEnum):
    """What a key is for."""

    OPENAI = "openai"
    TINKER = "tinker"
    FIREWORKS = "fireworks"
    HUB = "hub"
    S3 = "s3"


class Outcome(StrEnum):
    WORKS = "works"
    FAILS = "fails"
    UNCLEAR = "unclear"


class Finding(NamedTuple):
    outcome: Outcome
    sentence: str


Ask = Callable[[str, str | None, float], Finding]
"""Given the key, the address, and the seconds after which to give up."""


def probe(kind: KeyKind, *, key: str, address: str | None, allowed: dict[str, bool], seconds: float = SECONDS) -> Finding:
    """Ask, and wait for it: at most START_SECONDS and SECONDS. address: as a user typed it, judged by `allowed` (as
    `may_be_asked` takes it); None for the vendor's own or the one that the operator set, which nobody judges. A bucket is
    s3://name/prefix."""
    asking = Isolated("recipes.probes:answer", timeout_seconds=START_SECONDS, variables=VARIABLES)
    has_begun = False
    try:
        asking(kind, "", None, None, 0)
        has_begun = True
        asking.timeout_seconds = seconds + 2  # the client's own end comes first, and says more
        outcome, sentence = asking(kind, key, address, allowed if address and kind is not KeyKind.S3 else None, seconds)
    except IsolationTimeout:
        return _too_late(seconds) if has_begun else Finding(Outcome.UNCLEAR, "This server is too busy for a test. Try again.")
    except ValueError as error:  # the client's package is not there
        return Finding(Outcome.UNCLEAR, f"The test could not begin ({str(error)[:200]}).")
    finally:
        asking.close()
    return Finding(Outcome(outcome), sentence)


def answer(kind: str, key: str, address: str | None, allowed: dict[str, bool] | None, seconds: float) -> tuple[str, str]:
    """In the process of its own. Without seconds only the client's package is read, which takes a while."""
    ask = PROBES[KeyKind(kind)]()
    if not seconds:
        return Outcome.UNCLEAR, ""
    refused = guard_this_process(lambda text: may_be_asked(text, **allowed)) if allowed is not None else []
    _grow_no_further()
    asked = in_thread(lambda: ask(key, address, seconds))
    while not asked.done() and not refused:  # a client may try a refused address again and again
        wait([asked], timeout=0.1)
    try:
        if refused:
            raise AddressRefused(f"leads to {refused[0]}, an address that may not be asked from here.")
        outcome, sentence = asked.result()
    except Exception as error:  # noqa: BLE001 - five libraries' own kinds, and what a foreign answer makes of them
        outcome, sentence = _failure(error, seconds)
    return outcome, sentence.replace(key, "[the key]") if key else sentence


def _grow_no_further() -> None:
    if not Path("/proc/self/status").exists():
        return  # not Linux: the time limit is what is left
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(status["VmData"].split()[0]) * 1024 + MOST_GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


# Each reads the client's package and gives what asks.


def _endpoint() -> Ask:
    import openai

    def ask(key: str, address: str | None, seconds: float) -> Finding:
        http = openai.DefaultHttpxClient(timeout=seconds, trust_env=False)
        client = openai.OpenAI(base_url=address, api_key=key, max_retries=0, http_client=http)
        found = _listed([str(model.id) for model in client.models.list().data])
        try:
            client.with_options(api_key="none").models.list()
        except openai.APIStatusError:
            return Finding(Outcome.WORKS, f"Works: {found}.")
        return Finding(Outcome.UNCLEAR, f"The server answers ({found}), but to anybody: whether it takes the key is not known.")

    return ask


def _tinker() -> Ask:
    from recipes.backends.tinker.config import TinkerConfig
    from recipes.backends.tinker.connection import Connection, import_sdk

    import_sdk()

    async def find(key: str, address: str | None, seconds: float) -> Any:
        settings = TinkerConfig(base_url=address, connect_seconds=seconds, timeout_seconds=seconds)
        connection = await Connection.open(settings, {"backend_api_key": key}, None)
        found = in_thread(lambda: connection.rest().get_server_capabilities().result())  # opening the client asks, too
        return await connection.wait(found, "its models", longest=seconds)

    def ask(key: str, address: str | None, seconds: float) -> Finding:
        if not key.startswith("tml-"):
            return Finding(Outcome.FAILS, "A key of Tinker begins with tml-, and its client takes no other.")
        models = asyncio.run(find(key, address, seconds)).supported_models
        return Finding(Outcome.WORKS, f"Works: {_listed([str(model.model_name) for model in models])}.")

    return ask


def _fireworks() -> Ask:
    import fireworks

    from recipes.backends.fireworks.config import HOSTED

    def ask(key: str, address: str | None, seconds: float) -> Finding:
        http = fireworks.DefaultHttpxClient(follow_redirects=False, timeout=seconds)
        client = fireworks.Fireworks(api_key=key, account_id="", base_url=address or HOSTED, max_retries=0, http_client=http)
        accounts = itertools.islice(client.accounts.list(), NAMES_SHOWN + 1)
        names = [str(account.name).removeprefix("accounts/") for account in accounts]
        if not names:
            return Finding(Outcome.FAILS, "The server takes the key, which belongs to no account there.")
        return Finding(Outcome.WORKS, f"Works: account {_shown(names)}.")

    return ask


def _hub() -> Ask:
    from huggingface_hub import HfApi

    def ask(key: str, address: str | None, seconds: float) -> Finding:
        found = HfApi(endpoint=address, token=key).whoami()
        role = ((found.get("auth") or {}).get("accessToken") or {}).get("role")
        may = {"read": ", may read", "write": ", may write"}.get(str(role), "")
        return Finding(Outcome.WORKS, f"Works: user {_shown([str(found['name'])])}{may}.")

    return ask


def _bucket() -> Ask:
    """Writes an empty object below the prefix and removes it: what uploads need. The keys are the operator's, in AWS_…"""
    import boto3
    from botocore.config import Config

    def ask(key: str, address: str | None, seconds: float) -> Finding:
        quick = Config(connect_timeout=seconds, read_timeout=seconds, retries={"max_attempts": 0})
        client = boto3.client("s3", config=quick)
        bucket, _, prefix = (address or "").removeprefix("s3://").partition("/")
        name = f"{prefix.strip('/')}/connection-test".lstrip("/")
        client.put_object(Bucket=bucket, Key=name, Body=b"")
        client.delete_object(Bucket=bucket, Key=name)
        return Finding(Outcome.WORKS, f"Works: {_shown([bucket])} was written to, and what was written is removed.")

    return ask


PROBES: dict[KeyKind, Callable[[], Ask]] = {
    KeyKind.OPENAI: _endpoint,
    KeyKind.TINKER: _tinker,
    KeyKind.FIREWORKS: _fireworks,
    KeyKind.HUB: _hub,
    KeyKind.S3: _bucket,
}


# What went wrong, whichever library says so: by the names of its errors and their causes, and a status where one has it.


def _failure(error: BaseException, seconds: float) -> Finding:
    causes = list(_causes(error))
    names = {kind.__name__ for each in causes for kind in type(each).__mro__}
    status = next(filter(None, map(_status, causes)), 0)
    if isinstance(error, AddressRefused):
        return Finding(Outcome.FAILS, f"The server {error}")
    if "MemoryError" in names:
        return Finding(Outcome.FAILS, "The server sends more than any list of models takes. Is this the right address?")
    if status:
        return _refusal(status)
    if any("Timeout" in name for name in names) or "gave no result" in str(error):
        return _too_late(seconds)
    if "OfflineModeIsEnabled" in names:
        return Finding(Outcome.UNCLEAR, "This server is set to work without the hub (HF_HUB_OFFLINE).")
    if names & {"APIConnectionError", "ConnectError", "TransportError", "EndpointConnectionError", "ConnectionError"}:
        return Finding(Outcome.FAILS, "The server cannot be reached. Is it running, and is the address right?")
    if "NoCredentialsError" in names:
        return Finding(Outcome.FAILS, "There is no key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where the server runs.")
    return Finding(Outcome.FAILS, "The server answered with something of no sense. Is this the right address?")


def _too_late(seconds: float) -> Finding:
    return Finding(Outcome.FAILS, f"No answer within {seconds:g} s.")


def _refusal(status: int) -> Finding:
    if status == 401:
        return Finding(Outcome.FAILS, "The server refused the key (401).")
    if status == 403:
        return Finding(Outcome.FAILS, "The server lets this key do nothing here (403).")
    if status == 404:
        return Finding(Outcome.UNCLEAR, "The server answers, but has nothing at this address (404), so the key was not tried.")
    if status == 429:
        return Finding(Outcome.UNCLEAR, "The server is asked too often, or the quota is used up (429). Try again later.")
    if 300 <= status < 400:
        return Finding(Outcome.FAILS, f"The server sends elsewhere ({status}), which is not followed. Enter the final address.")
    if status >= 500:
        return Finding(Outcome.UNCLEAR, f"The server has a failure of its own ({status}). Try again later.")
    return Finding(Outcome.FAILS, f"The server refused ({status}).")


def _status(error: BaseException) -> int:
    found = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if found is None and isinstance(response := getattr(error, "response", None), dict):  # botocore's
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return found if isinstance(found, int) else 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _listed(names: list[str]) -> str:
    noun = "model" if len(names) == 1 else "models"
    return f"{len(names):,} {noun}, such as {_shown(names)}" if names else "no models"


def _shown(names: list[str]) -> str:
    """Some names, on one line, of characters that are to be seen."""
    cut = ("".join(filter(str.isprintable, name))[:LONGEST_NAME] for name in names[:NAMES_SHOWN])
    return ", ".join(cut) + (", …" if len(names) > NAMES_SHOWN else "")
