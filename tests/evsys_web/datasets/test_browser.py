"""The row browser: pages, one row, splits, and a search that stops and goes on."""

from __future__ import annotations

import itertools
import re

import pytest
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.datasets import browser
from evsys_web.datasets import search as search_module
from evsys_web.datasets.actions import publish_splits
from evsys_web.datasets.models import DatasetVersion
from evsys_web.datasets.search import search
from recipes.rows import RowFormat
from tests.evsys_web.datasets.conftest import chat


@pytest.fixture
def many(alice: User, project: Project) -> DatasetVersion:
    """many@1: 2,500 chats in train, 15 in validation; every 500th says Needle, once in capitals."""
    word = {False: "hay", True: "a Needle"}
    train = [chat(f"question {number}", word[number % 500 == 7], metadata={"attempt": number}) for number in range(2500)]
    held_out = [chat(f"held out {number}", "NEEDLE <b>" if number == 3 else "hay") for number in range(15)]
    splits = {"train": train, "validation": held_out}
    return publish_splits(user=alice, project=project, name="many", splits=splits, row_format=RowFormat.MESSAGES).version


def numbers(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'id="row-(\d+)"', page)]


def test_a_row_has_one_number_and_one_address_whatever_split_is_looked_at(alice_client: Client, many: DatasetVersion) -> None:
    url = many.get_absolute_url()
    assert numbers(alice_client.get(url).content.decode()) == list(range(1, 11))
    split = alice_client.get(f"{url}?split=validation").content.decode()
    assert numbers(split) == list(range(2501, 2511)) and "held out 0" in split
    one = alice_client.get(f"{url}?row=2512").content.decode()
    assert 'id="row-2512" aria-label="Row 2512" tabindex="-1" aria-current="true"' in one
    last = alice_client.get(f"{url}?split=train&page=99999").content.decode()
    assert numbers(last) == list(range(2491, 2501)), "a page of a split ends with it"
    assert numbers(alice_client.get(f"{url}?split=train&row=2515").content.decode())[-1] == 2500
    assert numbers(alice_client.get(f"{url}?split=<script>").content.decode())[0] == 1


def test_a_search_finds_text_whatever_its_case_and_never_runs_it(alice_client: Client, many: DatasetVersion) -> None:
    url = many.get_absolute_url()
    page = alice_client.get(f"{url}?q=nEEdle").content.decode()
    assert numbers(page) == [8, 508, 1008, 1508, 2008, 2504]
    assert "All 2,515 rows are searched" in page and "NEEDLE &lt;b&gt;" in page and "NEEDLE <b>" not in page
    assert numbers(alice_client.get(f"{url}?q=needle&split=validation").content.decode()) == [2504]
    assert numbers(alice_client.get(f"{url}?q=needle&field=user").content.decode()) == []
    assert numbers(alice_client.get(f"{url}?q=attempt&field=metadata&from=2499").content.decode()) == [2500]


def test_keys_and_roles_are_not_text(many: DatasetVersion) -> None:
    for word in ("content", "assistant", "messages"):
        assert search(many.rows, word, within=many.stretch()).rows == []


def test_a_search_stops_when_its_time_is_up_and_goes_on_where_it_was(
    many: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("evsys_web.datasets.rowfile.CHUNK_BYTES", 20_000)
    monkeypatch.setattr(search_module.time, "monotonic", lambda: float(next(ticks)))
    found: list[int] = []
    starts = [0]
    while starts[-1] < many.num_rows:
        part = search(many.rows, "needle", within=many.stretch(), start=starts[-1], seconds=0)
        found += [number for number, _ in part.rows]
        assert part.next_start > starts[-1], "every answer gets further"
        starts.append(part.next_start)
    assert found == [7, 507, 1007, 1507, 2007, 2503] and len(starts) > 5


def test_the_page_says_how_far_a_search_came(alice_client: Client, many: DatasetVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "MAX_FOUND", 2)
    monkeypatch.setattr(browser, "search", lambda *args, **kwargs: search(*args, max_found=2, **kwargs))
    page = alice_client.get(f"{many.get_absolute_url()}?q=needle").content.decode()
    assert "Searched 508 of 2,515 rows." in page and "Search on from row 509" in page and "from=508" in page
    on = alice_client.get(f"{many.get_absolute_url()}?q=needle&from=508").content.decode()
    assert numbers(on) == [1008, 1508] and "from row 509 on" in on


def test_quotes_newlines_and_letters_of_two_cases_are_found_as_they_read(alice: User, project: Project) -> None:
    rows = [chat('She said "no"\nand left'), chat("Straße"), chat("back\\slash"), chat("plain", metadata={"eval_run": 12})]
    version = publish_splits(
        user=alice, project=project, name="odd", splits={"train": rows}, row_format=RowFormat.MESSAGES
    ).version

    def found(text: str) -> list[int]:
        return [number for number, _ in search(version.rows, text, within=version.stretch()).rows]

    assert (found('"no"\nand'), found("STRASSE"), found("k\\s"), found("12"), found("\\n")) == ([0], [1], [2], [3], [])


def test_the_api_searches_and_pages_by_cursor(alice_client: Client, alice_headers: dict[str, str], many: DatasetVersion) -> None:
    url = f"/api/v1/datasets/versions/{many.pk}/rows"
    first = alice_client.get(f"{url}?search=needle&limit=2", headers=alice_headers).json()
    assert (first["positions"], first["next_cursor"], first["searched"], first["total"]) == ([7, 507], "508", 508, 2515)
    rest = alice_client.get(f"{url}?search=needle&cursor=508", headers=alice_headers).json()
    assert (rest["positions"], rest["next_cursor"]) == ([1007, 1507, 2007, 2503], None)
    part = alice_client.get(f"{url}?split=validation&start=10", headers=alice_headers).json()
    assert (part["positions"], part["total"], part["next_cursor"]) == (list(range(2510, 2515)), 15, None)
    for query in ("search=a&field=nonsense", "cursor=x", "cursor=-1", "search=" + "a" * 201):
        assert alice_client.get(f"{url}?{query}", headers=alice_headers).status_code == 422, query
    beyond = alice_client.get(f"{url}?cursor=9999999999", headers=alice_headers).json()
    assert (beyond["rows"], beyond["next_cursor"]) == ([], None)
