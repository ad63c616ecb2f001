"""Calls in a process of their own: bounded in time, also inside C code, and no call spoils the next."""

from __future__ import annotations

import os
import threading
import time

import pytest

from recipes.isolation import Isolated, IsolationTimeout


def test_a_call_gives_what_the_function_returns_and_other_threads_wait_their_turn() -> None:
    add = Isolated("operator:add", timeout_seconds=90)
    found: list[str] = []
    threads = [threading.Thread(target=lambda n=n: found.append(add("é\n", str(n)))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert sorted(found) == [f"é\n{n}" for n in range(8)]
    add.close()
    assert add(1, 2) == 3
    add.close()


def test_what_the_function_raises_comes_back_in_words() -> None:
    divide = Isolated("operator:truediv", timeout_seconds=90)
    with pytest.raises(ValueError, match="ZeroDivisionError: division by zero"):
        divide(1, 0)
    assert divide(1, 2) == 0.5
    divide.close()


def test_a_call_that_never_ends_is_ended_inside_c_code_and_the_next_one_works() -> None:
    power = Isolated("operator:pow", timeout_seconds=90)
    assert power(2, 3) == 8
    power.timeout_seconds = 0.3
    began = time.perf_counter()
    with pytest.raises(IsolationTimeout, match=r"longer than 0\.3 seconds"):
        power(7, 400_000_000)
    assert time.perf_counter() - began < 60
    power.timeout_seconds = 90
    assert power(2, 3) == 8
    power.close()


def test_a_call_that_wants_too_much_memory_ends_as_well() -> None:
    repeat = Isolated("operator:mul", timeout_seconds=90)
    with pytest.raises(IsolationTimeout, match="memory"):
        repeat("x", 10**11)
    assert repeat("x", 3) == "xxx"
    repeat.close()


def test_secrets_in_the_environment_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    getenv = Isolated("os:getenv", timeout_seconds=90)
    assert os.getenv("SECRET_OF_OURS") == "x"
    assert getenv("SECRET_OF_OURS") is None
    getenv.close()
