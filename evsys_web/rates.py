"""Counts how often somebody did something in this minute, or in a longer window, in Django's cache: in this process, or in Redis
where there is one, so that several web processes count together."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from django.core.cache import caches

logger = logging.getLogger(__name__)
WINDOW_SECONDS = 60


class Rate(NamedTuple):
    limit: int
    num_calls: int
    reset: int
    """Seconds until the window ends."""

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.num_calls)

    @property
    def is_kept(self) -> bool:
        return self.num_calls <= self.limit


class TooOften(Exception):
    """A sentence for whoever asked for more than is allowed in a while. seconds: after which to try again."""

    def __init__(self, sentence: str, *, seconds: int) -> None:
        super().__init__(sentence)
        self.seconds = seconds


def count(name: str, *, limit: int, seconds: int = WINDOW_SECONDS) -> Rate | None:
    """Count one more in this window of so many seconds; None while the counter is away: better uncounted than refused."""
    from redis.exceptions import RedisError  # not at every start: redis imports OpenTelemetry's SDK where that is installed

    window, passed = divmod(int(time.time()), seconds)
    key, cache = f"rate:{name}:{window}", caches["rates"]
    try:
        cache.add(key, 0, timeout=2 * seconds)
        counted = cache.incr(key)
    except (OSError, ValueError, RedisError):  # Redis is away, or threw the key out
        logger.warning("Calls are not counted: the cache does not answer", exc_info=True)
        return None
    return Rate(limit, counted, seconds - passed)


def is_too_often(name: str, *, limit: int, seconds: int = WINDOW_SECONDS) -> bool:
    """Count one more: is it above the limit?"""
    rate = count(name, limit=limit, seconds=seconds)
    return rate is not None and not rate.is_kept


def is_used_up(name: str, *, limit: int) -> bool:
    """Of this minute, without counting: was it counted so often already?"""
    from redis.exceptions import RedisError

    try:
        return int(caches["rates"].get(f"rate:{name}:{int(time.time()) // WINDOW_SECONDS}", 0)) >= limit
    except (OSError, RedisError):
        logger.warning("Calls are not counted: the cache does not answer", exc_info=True)
        return False


def forget(name: str, *, seconds: int = WINDOW_SECONDS) -> None:
    """Count from nothing in this window: it was who they say."""
    from redis.exceptions import RedisError

    try:
        caches["rates"].delete(f"rate:{name}:{int(time.time()) // seconds}")
    except (OSError, RedisError):
        logger.warning("Calls are not counted: the cache does not answer", exc_info=True)
