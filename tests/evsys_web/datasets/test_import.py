from __future__ import annotations

import csv
import hashlib
import io
import os
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import delete_dataset, delete_version, import_dataset, import_starter_rows
from evsys_web.datasets.intake import ReadingNeeded, RowsRefused
from evsys_web.datasets.models import Dataset, DatasetVersion, Format, VersionStatus
from evsys_web.datasets.rowfile import ROWS_PER_OFFSET
from recipes.conversions import Reading
from recipes.errors import ConfigError, DataError
from recipes.rows import RowFormat
from tests.evsys_web.datasets.conftest import WriteRows, chat

SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}


def stored_files() -> set[Path]:
    root = Path(settings.STORAGES["default"]["OPTIONS"]["location"])
    return {path for path in [*root.rglob("*"), *Path(settings.FILE_UPLOAD_TEMP_DIR).rglob("*")] if path.is_file()}


def test_a_file_of_good_rows_becomes_version_one(version: DatasetVersion, alice: User) -> None:
    assert version.reference == "sums@1"
    assert (version.status, version.format, version.num_rows) == (VersionStatus.READY, Format.MESSAGES, 3)
    assert version.created_by == alice
    assert version.source == "sums.jsonl"
    content = version.file.open("rb").read()
    assert version.content_hash == hashlib.sha256(content).hexdigest()
    assert version.num_bytes == len(content)
    assert [row["messages"][0]["content"] for row in version.read_rows()] == ["1 + 1?", "2 + 2?", "3 + 3?"]


def test_files_are_stored_under_names_of_our_own(version: DatasetVersion) -> None:
    assert version.file.name is not None
    assert version.file.name.startswith("datasets/")
    assert "sums" not in version.file.name


def test_the_same_rows_again_give_the_same_version(
    version: DatasetVersion, alice: User, project: Project, write_rows: WriteRows
) -> None:
    before = stored_files()
    again = import_dataset(
        user=alice, project=project, name="sums", path=write_rows(*version.read_rows(), filename="other.jsonl")
    )
    assert (again.version, again.created) == (version, False)
    assert stored_files() == before


def test_what_a_killed_import_left_on_the_disk_goes_a_day_later(alice: User, project: Project, write_rows: WriteRows) -> None:
    old, young = (Path(settings.FILE_UPLOAD_TEMP_DIR) / f"tmp{age}.upload.jsonl" for age in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"{}")
    os.utime(old, (0, 0))
    import_dataset(user=alice, project=project, name="sums", path=write_rows(chat("1 + 1?")))
    assert (old.exists(), young.exists()) == (False, True)
    young.unlink()


def test_other_rows_make_the_next_version_and_a_number_is_never_given_twice(
    version: DatasetVersion, alice: User, project: Project, write_rows: WriteRows
) -> None:
    second = import_dataset(user=alice, project=project, name="sums", path=write_rows(chat("4 + 4?"))).version
    assert second.number == 2
    delete_version(user=alice, version=second)
    third = import_dataset(user=alice, project=project, name="sums", path=write_rows(chat("5 + 5?"))).version
    assert third.number == 3


def test_a_ready_version_refuses_every_save(version: DatasetVersion) -> None:
    version.num_rows = 5
    with pytest.raises(ValidationError, match="never changes"):
        version.save()
    fresh = DatasetVersion.objects.get(pk=version.pk)
    fresh.format = Format.TASK
    with pytest.raises(ValidationError, match="sums@1 is ready"):
        fresh.save(update_fields=["format"])


def test_nothing_is_stored_when_a_row_is_bad(alice: User, project: Project, write_rows: WriteRows) -> None:
    before = stored_files()
    path = write_rows(chat("a?"), {"messages": []}, chat("b?"), {"messages": [{"role": "bot", "content": "x"}]})
    with pytest.raises(RowsRefused) as caught:
        import_dataset(user=alice, project=project, name="sums", path=path)
    refused = caught.value
    assert (refused.line, refused.field) == (2, "messages")
    assert (refused.report.count, refused.report.num_errors) == (2, 2)
    listed = list(csv.reader(io.TextIOWrapper(refused.errors_csv, encoding="utf-8")))
    assert [cells[1:3] for cells in listed] == [["number", "field"], ["2", "messages"], ["4", "messages[0].role"]]
    assert not Dataset.objects.exists()
    assert stored_files() == before


def test_bad_rows_are_left_out_only_on_request(alice: User, project: Project, write_rows: WriteRows) -> None:
    path = write_rows(chat("a?"), {"messages": []}, chat("b?"))
    version = import_dataset(user=alice, project=project, name="sums", path=path, leave_out_bad=True).version
    assert (version.num_rows, version.num_left_out) == (2, 1)


def test_a_file_without_a_good_row_is_refused_even_then(alice: User, project: Project, write_rows: WriteRows) -> None:
    with pytest.raises(RowsRefused):
        import_dataset(user=alice, project=project, name="sums", path=write_rows({"messages": []}), leave_out_bad=True)


def test_broken_json_on_line_70001_is_found(alice: User, project: Project, write_rows: WriteRows) -> None:
    path = write_rows(*[chat("a?")] * 70_000)
    path.write_bytes(path.read_bytes() + b'{"messages": [\n')
    with pytest.raises(RowsRefused, match="Line 70,001: found broken JSON"):
        import_dataset(user=alice, project=project, name="sums", path=path)


def test_foreign_rows_wait_for_a_word(alice: User, project: Project, write_rows: WriteRows) -> None:
    path = write_rows(SHAREGPT)
    with pytest.raises(ReadingNeeded, match="look like ShareGPT") as caught:
        import_dataset(user=alice, project=project, name="chats", path=path)
    reading = caught.value.proposal.reading
    version = import_dataset(user=alice, project=project, name="chats", path=path, reading=reading).version
    assert version.conversion == "ShareGPT"
    assert version.rows_between(0, 1)[0]["messages"][1] == {"role": "assistant", "content": "Hello"}


def test_unknown_columns_are_mapped_by_hand(alice: User, project: Project, tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    path.write_text('question,answer,level\n"1 + 1?",2,easy\n"2 +\n2?",4,\n')
    with pytest.raises(ReadingNeeded, match="question, answer, level") as caught:
        import_dataset(user=alice, project=project, name="sums", path=path, filename="sums.csv")
    assert caught.value.proposal.reading is None
    reading = Reading(RowFormat.MESSAGES, columns={"prompt": "question", "reply": "answer"})
    imported = import_dataset(user=alice, project=project, name="sums", path=path, filename="sums.csv", reading=reading)
    assert imported.metadata_keys == ["level"]
    assert imported.version.rows_between(0, 9) == [chat("1 + 1?", "2", metadata={"level": "easy"}), chat("2 +\n2?", "4")]


def test_rows_far_into_a_file_are_one_seek_away(alice: User, project: Project, write_rows: WriteRows) -> None:
    total = 2 * ROWS_PER_OFFSET + 5
    path = write_rows(*[chat(f"{number}?") for number in range(total)])
    version = import_dataset(user=alice, project=project, name="many", path=path).version
    for start, stop in [(0, 2), (998, 1003), (1999, 2001), (total - 2, total + 10), (total, total + 5), (-3, 1)]:
        expected = [f"{number}?" for number in range(max(0, start), min(stop, total))]
        assert [row["messages"][0]["content"] for row in version.rows_between(start, stop)] == expected


@pytest.mark.parametrize("name", ["", " ", "a@1", "../x", "a/b", "-a", "x" * 101, "a\n", "a\0b"])
def test_a_name_that_is_none_is_refused(name: str, alice: User, project: Project, write_rows: WriteRows) -> None:
    with pytest.raises(ConfigError, match="Name of the dataset"):
        import_dataset(user=alice, project=project, name=name, path=write_rows(chat("a?")))


def test_a_stranger_cannot_import_or_delete(
    version: DatasetVersion, mallory: User, project: Project, write_rows: WriteRows
) -> None:
    with pytest.raises(PermissionDenied):
        import_dataset(user=mallory, project=project, name="sums", path=write_rows(chat("a?")))
    with pytest.raises(PermissionDenied):
        delete_dataset(user=mallory, dataset=version.dataset)
    with pytest.raises(PermissionDenied):
        delete_version(user=mallory, version=version)


def test_versions_are_seen_by_members_only(version: DatasetVersion, alice: User, bob: User, mallory: User, admin: User) -> None:
    seen = {user.username: list(DatasetVersion.objects.visible_to(user)) for user in (alice, bob, mallory, admin)}
    assert seen == {"alice": [version], "bob": [version], "mallory": [], "admin": [version]}


def test_a_reference_names_a_version(version: DatasetVersion, alice: User, mallory: User) -> None:
    assert Dataset.objects.resolve("sums@1", alice) == version
    assert Dataset.objects.resolve("sums", alice) == version
    for reference, user in [("sums@2", alice), ("sums@x", alice), ("other", alice), ("sums@1", mallory), ("", alice)]:
        with pytest.raises(ConfigError) as caught:
            Dataset.objects.resolve(reference, user)
        assert caught.value.path == ("data", "dataset")


def test_deleting_a_dataset_deletes_its_files(
    version: DatasetVersion, alice: User, django_capture_on_commit_callbacks: pytest.FixtureRequest
) -> None:
    path = Path(version.file.path)
    assert path.exists()
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        delete_dataset(user=alice, dataset=version.dataset)
    assert not path.exists()
    assert not DatasetVersion.objects.exists()


def test_the_starter_rows_come_once(alice: User, project: Project) -> None:
    first = import_starter_rows(project, alice)
    assert import_starter_rows(project, alice) == first
    assert first.reference == "starter-sums@1"
    assert first.num_rows > 500


def test_a_file_that_is_no_text_is_one_sentence(alice: User, project: Project, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\x89PNG\r\n\0\0\0")
    with pytest.raises(DataError, match="found a binary file; expected JSONL, JSON, CSV or Parquet"):
        import_dataset(user=alice, project=project, name="sums", path=path, filename="x.jsonl")
