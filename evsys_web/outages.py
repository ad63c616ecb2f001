"""What ails the machines around the server and passes without a change of the code: a database that is away, a disk that is full.

Everything else that a database refuses (a table that is not there, too many variables, a file that may not be written) is a bug,
or a mistake of whoever set it up, and no waiting mends it.
"""

from __future__ import annotations

import errno
import os

from django.db import InterfaceError, OperationalError, connection

RETRY_AFTER = "5"  # seconds, where the database is away
MAKE_ROOM = "Free some space (`manage.py prune --dry-run` says what may go)"

_FULL = (os.strerror(errno.ENOSPC), "database or disk is full")  # the system's words, and SQLite's
_AWAY_OF_SQLITE = ("is locked", "unable to open database file", "disk I/O error")


def is_full_disk(error: BaseException | None) -> bool:
    """Libraries that write themselves (safetensors), and databases, only quote the system's words."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (isinstance(error, OSError) and error.errno in full) or any(words in str(error) for words in _FULL)


def is_database_away(error: BaseException | None) -> bool:
    """Or too busy. PostgreSQL's driver raises these two where the connection is the matter; SQLite's for nearly anything."""
    if not isinstance(error, OperationalError | InterfaceError) or is_full_disk(error):
        return False
    return connection.vendor != "sqlite" or any(words in str(error) for words in _AWAY_OF_SQLITE)
