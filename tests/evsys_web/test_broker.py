from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection

from evsys_web.broker import Transport

pytestmark = pytest.mark.once

CONSUMERS = 4
PER_PRODUCER = 150


def connect(folder: Path) -> Connection:
    options = {"data_folder_in": str(folder / "q"), "data_folder_out": str(folder / "q"), "control_folder": str(folder / "c")}
    return Connection(transport=Transport, transport_options=options)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Connection]:
    with connect(tmp_path) as connection:
        yield connection


def produce(folder: Path, producer: int) -> None:
    with connect(folder) as connection, connection.SimpleQueue("training") as queue:
        for number in range(PER_PRODUCER):
            queue.put([producer, number])


def consume(folder: Path, done: Event, results: Any) -> None:
    received: list[list[int]] = []
    with connect(folder) as connection, connection.SimpleQueue("training") as queue:
        while True:
            finished = done.is_set()  # read before looking, so that the last look comes after the last message
            try:
                message = queue.get(block=False)
            except Empty:
                if finished:
                    break
                done.wait(0.002)
                continue
            received.append(message.payload)
            message.ack()
    results.put(received)


def test_several_consumers_lose_and_double_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    done, results = context.Event(), context.SimpleQueue()
    consumers = [context.Process(target=consume, args=(tmp_path, done, results)) for _ in range(CONSUMERS)]
    producers = [context.Process(target=produce, args=(tmp_path, number)) for number in range(2)]
    for process in consumers + producers:
        process.start()
    for producer in producers:
        producer.join(30)
    done.set()
    received = [tuple(payload) for _ in consumers for payload in results.get()]
    for consumer in consumers:
        consumer.join(30)
        assert consumer.exitcode == 0
    expected = {(producer, number) for producer in range(2) for number in range(PER_PRODUCER)}
    assert Counter(received) == Counter(expected)


def test_messages_come_in_the_order_they_were_sent(broker: Connection) -> None:
    queue = broker.SimpleQueue("default")
    for number in range(20):
        queue.put(number)
    assert [queue.get(timeout=30).payload for _ in range(20)] == list(range(20))


def test_a_queue_gets_only_its_own_messages(broker: Connection) -> None:
    broker.SimpleQueue("training").put("for training")
    with pytest.raises(Empty):
        broker.SimpleQueue("default").get(block=False)
    assert broker.SimpleQueue("training").get(timeout=30).payload == "for training"


@pytest.mark.fault("A message of the file broker is half written", "Nobody sees it.")
def test_a_half_written_message_is_invisible(broker: Connection, tmp_path: Path) -> None:
    queue = broker.SimpleQueue("default")
    (tmp_path / "q" / ".writing-1").write_text('{"body": "cut o')
    with pytest.raises(Empty):
        queue.get(block=False)
    assert queue.qsize() == 0


def test_an_exchange_name_cannot_leave_the_folder(broker: Connection) -> None:
    with pytest.raises(broker.channel_errors):
        broker.channel().get_table("../../elsewhere")


def test_deleting_a_queue_forgets_its_binding(broker: Connection) -> None:
    channel = broker.channel()
    queue = broker.SimpleQueue("short-lived")
    assert [binding.queue for binding in channel.get_table("short-lived")] == ["short-lived"]
    queue.queue.delete()
    assert channel.get_table("short-lived") == []
