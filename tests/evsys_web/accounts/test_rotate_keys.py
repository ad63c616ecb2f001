"""A new key for what is stored: everything opens under it, and nothing under the one before."""

from __future__ import annotations

from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from django.core.management import CommandError, call_command

from evsys_web.accounts.actions import reveal_credential, store_credential
from evsys_web.accounts.models import BackendCredential, Project, User
from evsys_web.accounts.second_factor import turn_on
from evsys_web.encryption import seal, unsaid, unseal
from evsys_web.home.lock import alone_in_home
from evsys_web.home.management.commands import rotate_keys
from evsys_web.notifications.actions import add_channel
from evsys_web.notifications.models import Channel
from recipes.errors import ConfigError

SECRET = "sk-a-very-secret-key-0042"


@pytest.fixture(autouse=True)
def stored(alice: User, project: Project, settings: Any, tmp_path: Any) -> None:
    settings.HOME = tmp_path
    store_credential(user=alice, project=project, name="mine", secret=SECRET)
    add_channel(user=alice, project=project, kind="webhook", target="https://example.org/hook", events=["failed"])


def test_everything_is_sealed_anew_and_the_former_key_opens_nothing(
    project: Project, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CREDENTIAL_KEYS_ARE_GIVEN = False
    former, signing = settings.CREDENTIAL_KEYS, unseal(Channel.objects.get().sealed_secret)
    codes = turn_on(user=User.objects.get(username="alice"), secret="JBSWY3DPEHPK3PXP", revoke_tokens=False)
    call_command("rotate_keys")
    file = settings.HOME / "credential_key"
    assert file.read_text() == ",".join(settings.CREDENTIAL_KEYS) and file.stat().st_mode & 0o077 == 0
    assert len(settings.CREDENTIAL_KEYS) == 1 and former != settings.CREDENTIAL_KEYS
    assert reveal_credential(project=project, name="mine") == SECRET
    assert unseal(Channel.objects.get().sealed_secret) == signing
    assert unseal(Authenticator.objects.get(type="totp").data["secret"]) == "JBSWY3DPEHPK3PXP"
    assert RecoveryCodes(Authenticator.objects.get(type="recovery_codes")).generate_codes() == codes
    settings.CREDENTIAL_KEYS = former
    with pytest.raises(ConfigError):
        unseal(BackendCredential.objects.get().sealed)


def test_keys_from_the_environment_rotate_once_the_new_one_stands_in_front(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CREDENTIAL_KEYS_ARE_GIVEN = True
    with pytest.raises(CommandError, match="Put a new one in front"):
        call_command("rotate_keys")
    settings.CREDENTIAL_KEYS = ["n" * 40, *settings.CREDENTIAL_KEYS]
    call_command("rotate_keys")
    settings.CREDENTIAL_KEYS = ["n" * 40]
    assert unseal(BackendCredential.objects.get().sealed) == SECRET
    assert not (settings.HOME / "credential_key").exists()


def test_one_that_no_key_opens_stops_it_and_loses_nothing(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CREDENTIAL_KEYS_ARE_GIVEN = False
    BackendCredential.objects.create(project=Project.objects.get(name="Sums"), name="lost", sealed="…")
    with pytest.raises(CommandError, match="Enter the credential anew"):
        call_command("rotate_keys")
    assert len((settings.HOME / "credential_key").read_text().split(",")) == 2
    assert unseal(BackendCredential.objects.get(name="mine").sealed) == SECRET


def test_a_running_server_would_go_on_with_the_former_key(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CREDENTIAL_KEYS_ARE_GIVEN = False
    former = settings.CREDENTIAL_KEYS
    with alone_in_home("the server"), pytest.raises(CommandError, match=r"EvSys Web runs on this EVSYS_HOME\. Stop it first\."):
        call_command("rotate_keys")
    assert former == settings.CREDENTIAL_KEYS and not (settings.HOME / "credential_key").exists()


@pytest.mark.parametrize("given", [True, False])
def test_one_that_is_stored_meanwhile_under_the_former_key_is_not_lost(
    settings: Any, monkeypatch: pytest.MonkeyPatch, project: Project, given: bool
) -> None:
    settings.CREDENTIAL_KEYS_ARE_GIVEN = False
    late, reseal_all = seal("stored meanwhile"), rotate_keys._reseal_all
    if given:
        settings.CREDENTIAL_KEYS_ARE_GIVEN = True
        settings.CREDENTIAL_KEYS = ["n" * 40, *settings.CREDENTIAL_KEYS]

    def somebody_is_quick() -> int:
        count = reseal_all()
        BackendCredential.objects.create(project=project, name="late", sealed=late)
        return count

    monkeypatch.setattr(rotate_keys, "_reseal_all", somebody_is_quick)
    with pytest.raises(CommandError, match="All keys are kept"):
        call_command("rotate_keys")
    assert unseal(BackendCredential.objects.get(name="late").sealed) == "stored meanwhile"
    assert given or len((settings.HOME / "credential_key").read_text().split(",")) == 2
    monkeypatch.setattr(rotate_keys, "_reseal_all", reseal_all)
    call_command("rotate_keys")
    settings.CREDENTIAL_KEYS = settings.CREDENTIAL_KEYS[:1]
    assert unseal(BackendCredential.objects.get(name="late").sealed) == "stored meanwhile"


def test_a_second_rotation_does_not_bring_back_a_key_that_the_first_one_dropped(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CREDENTIAL_KEYS_ARE_GIVEN = False
    (settings.HOME / "credential_key").write_text("the key of the first")
    with pytest.raises(CommandError, match="Try again"):
        call_command("rotate_keys")
    assert (settings.HOME / "credential_key").read_text() == "the key of the first"


def test_a_key_that_was_opened_is_not_repeated() -> None:
    unseal(BackendCredential.objects.get().sealed)
    assert unsaid(f"Incorrect API key: {SECRET}.") == "Incorrect API key: [the key]."
