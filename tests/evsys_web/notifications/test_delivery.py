"""Messages on their way: signed, tried again, given up, and never to where they must not go."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.utils.timezone import now
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project, User
from evsys_web.notifications.actions import add_channel, send_test
from evsys_web.notifications.models import MAX_FAILURES, MAX_TRIES, Channel, Delivery, DeliveryStatus
from evsys_web.notifications.signature import HEADER, receiver_source, sign, verify
from evsys_web.notifications.sweeping import sweep
from evsys_web.notifications.tasks import delay_after, deliver
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import Status
from tests.evsys_web.notifications.conftest import EVENTS, MakeChannel, MakeRun
from tests.evsys_web.notifications.receiver import receiver


@pytest.fixture
def told(make_channel: MakeChannel, end_run: MakeRun) -> Any:
    """Writes down that a run ended, for a webhook at this URL."""

    def tell(url: str, **values: Any) -> Delivery:
        channel = make_channel(url, **values)
        end_run(name="<b>sums</b>")
        sweep()
        return channel.deliveries.get()

    return tell


def try_now(delivery: Delivery) -> Delivery:
    """As a worker does when the message arrives."""
    Delivery.objects.filter(pk=delivery.pk).update(due_at=now())
    deliver.apply(args=[delivery.pk])
    delivery.refresh_from_db()
    delivery.channel.refresh_from_db()
    return delivery


def test_an_answer_of_500_is_tried_again_with_the_same_event_id_and_200_ends_it(told: Any, project: Project) -> None:
    with receiver(500, 200) as server:
        delivery = try_now(told(server.url))
        assert (delivery.status, delivery.num_tries, delivery.response_code) == (DeliveryStatus.QUEUED, 1, 500)
        assert delivery.error == "The receiver answered 500."
        assert timedelta(seconds=5) < delivery.due_at - now() <= timedelta(seconds=10)
        deliver.apply(args=[delivery.pk])
        assert len(server.received) == 1, "not before its time"
        delivery = try_now(delivery)
        assert (delivery.status, delivery.num_tries, delivery.response_code, delivery.error) == ("completed", 2, 200, "")
        try_now(delivery)
    first, second = server.received
    assert first.body == second.body
    assert first.message["id"] == second.headers["EvSys-Event-Id"] == delivery.notice.event_id
    assert first.message["type"] == "run.finished" and first.message["project"] == {"id": project.pk, "name": "Sums"}
    assert first.message["subject"]["url"].startswith("http://127.0.0.1:8000/runs/")
    assert first.message["subject"]["name"] == "<b>sums</b>"


def test_a_receiver_can_check_who_sent_it_with_the_code_on_the_page(alice: User, project: Project) -> None:
    with receiver() as server:
        channel, secret = add_channel(user=alice, project=project, kind="webhook", target=server.url, events=EVENTS)
        assert secret not in channel.sealed_secret
        assert try_now(send_test(user=alice, channel=channel)).status == DeliveryStatus.COMPLETED
    scope: dict[str, Any] = {}
    exec(receiver_source(), scope)  # as the page tells people to
    (sent,) = server.received
    for check in (verify, scope["verify"]):
        assert check(secret, sent.headers[HEADER], sent.body)
        assert not check(secret, sent.headers[HEADER], sent.body + b" ")
        assert not check("whsec_other", sent.headers[HEADER], sent.body)
        assert not check(secret, sign(secret, sent.body, at=1_700_000_000), sent.body), "old"
        assert not check(secret, "t=x,v1=", sent.body) and not check(secret, "", sent.body)


def test_it_is_given_up_after_seven_tries_within_four_hours(told: Any) -> None:
    with receiver(503) as server:
        delivery = told(server.url)
        for _ in range(MAX_TRIES + 2):
            delivery = try_now(delivery)
    assert (delivery.status, delivery.num_tries, len(server.received)) == (DeliveryStatus.FAILED, MAX_TRIES, MAX_TRIES)
    assert delivery.channel.num_failures == 1 and delivery.channel.is_on
    assert sum(delay_after(tries) for tries in range(1, MAX_TRIES)) < 4 * 3600


def test_a_channel_that_fails_again_and_again_is_turned_off_and_says_why(told: Any, end_run: MakeRun) -> None:
    with receiver(404) as server:
        delivery = told(server.url)
        channel = delivery.channel
        Channel.objects.update(num_failures=MAX_FAILURES - 1)
        Delivery.objects.update(num_tries=MAX_TRIES - 1)
        try_now(delivery)
        channel.refresh_from_db()
        assert not channel.is_on
        assert channel.off_reason == "The last 5 deliveries failed, the last one so: The receiver answered 404."
        end_run(Status.FAILED)
        sweep()
    assert channel.deliveries.count() == 1


def test_one_success_forgets_the_failures_before(told: Any) -> None:
    with receiver() as server:
        delivery = told(server.url)
        Channel.objects.update(num_failures=4)
        assert try_now(delivery).channel.num_failures == 0


def test_410_turns_the_webhook_off_at_once(told: Any) -> None:
    with receiver(410) as server:
        delivery = try_now(told(server.url))
    assert delivery.status == DeliveryStatus.FAILED and not delivery.channel.is_on
    assert "wants no more messages" in delivery.channel.off_reason


def test_a_redirect_is_not_followed(told: Any) -> None:
    with receiver(302) as server:
        delivery = try_now(told(server.url))
        assert [each.path for each in server.received] == ["/"]
    assert delivery.status == DeliveryStatus.QUEUED and "a redirect, which is not followed" in delivery.error


def test_a_receiver_that_never_answers_is_left(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evsys_web.notifications.webhooks.SECONDS", 0.3)
    with receiver(0) as server:
        delivery = try_now(told(server.url))
    assert delivery.status == DeliveryStatus.QUEUED and "no answer within" in delivery.error


@pytest.mark.parametrize("host", ["localhost", "0x7f.0.0.1", "2130706433", "127.1"])
def test_a_name_that_leads_inside_is_refused_when_it_is_connected_to(told: Any, settings: Settings, host: str) -> None:
    """The server is reachable by others here, so that not even its own machine may be called."""
    with receiver() as server:
        delivery = told(server.url.replace("127.0.0.1", host))
        settings.ALLOWED_HOSTS = ["evsys.example.org"]
        delivery = try_now(delivery)
    assert server.received == []
    assert delivery.status == DeliveryStatus.QUEUED and "an address that may not be asked from here" in delivery.error


def test_a_proxy_in_the_environment_is_not_asked(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as proxy, receiver() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        assert try_now(told(server.url)).status == DeliveryStatus.COMPLETED
    assert proxy.received == [] and len(server.received) == 1


def test_a_server_that_is_not_there_is_a_sentence(told: Any) -> None:
    with receiver() as server:
        url = server.url
    delivery = try_now(told(url))
    assert delivery.status == DeliveryStatus.QUEUED and "cannot be reached" in delivery.error


def test_two_workers_that_hear_of_it_send_once(told: Any) -> None:
    delivery = told("https://example.org/hook")
    rivals = [Delivery.objects.get(pk=delivery.pk) for _ in range(2)]
    assert [rival.claim() for rival in rivals] == [True, False]


def test_what_waits_when_a_channel_is_turned_off_is_not_sent(told: Any) -> None:
    with receiver() as server:
        delivery = told(server.url)
        delivery.channel.turn_off("Enough.")
        delivery = try_now(delivery)
    assert server.received == [] and delivery.status == DeliveryStatus.FAILED and "turned off before" in delivery.error


def test_a_test_is_tried_once_reaches_a_channel_that_is_off_and_counts_for_nothing(
    make_channel: MakeChannel, alice: User
) -> None:
    with receiver(500) as server:
        channel = make_channel(server.url)
        channel.turn_off("")
        delivery = try_now(send_test(user=alice, channel=channel))
        with pytest.raises(RunRefused, match="a moment ago"):
            send_test(user=alice, channel=channel)
    assert delivery.status == DeliveryStatus.FAILED and len(server.received) == 1
    assert server.received[0].message["type"] == "test" and server.received[0].message["subject"] is None
    assert delivery.channel.num_failures == 0


# e-mail


@pytest.fixture
def with_email(settings: Settings) -> Iterator[Settings]:
    settings.EMAIL_IS_SENT = True
    yield settings


def test_an_address_gets_a_plain_message_whatever_a_name_holds(
    with_email: Settings, make_channel: MakeChannel, end_run: MakeRun
) -> None:
    channel = make_channel("ada@example.org", kind="email")
    end_run(Status.FAILED, name="sums\nBcc: eve@example.org", error="The rows are gone.")
    sweep()
    assert try_now(channel.deliveries.get()).status == DeliveryStatus.COMPLETED
    (message,) = mail.outbox
    assert message.subject == "[EvSys] sums Bcc: eve@example.org: failed" and message.recipients() == ["ada@example.org"]
    assert "The rows are gone." in message.body and "http://127.0.0.1:8000/runs/" in message.body
    assert message.extra_headers["X-EvSys-Event-Id"] == channel.deliveries.get().notice.event_id


def test_a_mail_server_that_is_away_is_asked_again(
    with_email: Settings, make_channel: MakeChannel, end_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = make_channel("ada@example.org", kind="email")
    end_run()
    sweep()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise smtplib.SMTPServerDisconnected("Connection unexpectedly closed")

    monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", refuse)
    delivery = try_now(channel.deliveries.get())
    assert delivery.status == DeliveryStatus.QUEUED and "Connection unexpectedly closed" in delivery.error


def test_a_server_that_sends_no_email_any_more_says_so(with_email: Settings, make_channel: MakeChannel, end_run: MakeRun) -> None:
    channel = make_channel("ada@example.org", kind="email")
    end_run()
    sweep()
    with_email.EMAIL_IS_SENT = False
    delivery = try_now(channel.deliveries.get())
    assert delivery.status == DeliveryStatus.FAILED and "EMAIL_URL is not set" in delivery.error
