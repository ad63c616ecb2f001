from __future__ import annotations

from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from evsys_web.evals.models import EvalRun
from tests.evsys_web.evals.test_import import ROWS, lines


def post(client: Client, content: bytes, **data: Any) -> Any:
    return client.post("/evals/import", {"file": SimpleUploadedFile("their.jsonl", content), **data})


def test_the_page_imports_a_file_and_goes_to_the_eval(alice_client: Client) -> None:
    assert b"Import attempts" in alice_client.get("/evals/import").content
    response = post(alice_client, lines(ROWS), model_label="qwen")
    run = EvalRun.objects.get()
    assert (response.status_code, response["Location"]) == (302, run.get_absolute_url())
    page = alice_client.get(run.get_absolute_url()).content.decode()
    assert "12 attempts at 4 tasks imported." in page and "qwen" in page


def test_the_page_names_the_bad_lines_and_keeps_nothing(alice_client: Client) -> None:
    response = post(alice_client, lines([ROWS[0], {"task_id": "t9"}]))
    assert response.status_code == 422 and not EvalRun.objects.exists()
    page = response.content.decode()
    assert "1 refused, and nothing was imported. The other 1 can be imported" in page
    assert "Line 2: found no verdict; expected is_correct, reward or error." in page
    assert post(alice_client, lines([ROWS[0], {"task_id": "t9"}]), leave_out_bad="on").status_code == 302


def test_a_picture_is_refused_by_the_page_in_a_sentence(alice_client: Client) -> None:
    response = post(alice_client, b"\x89PNG\r\n\x1a\n\x00\x00")
    assert response.status_code == 422 and "a binary file" in response.content.decode()
