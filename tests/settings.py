"""The product's settings on a throw-away home, so that tests never touch the developer's own database, files or broker."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from urllib.parse import urlsplit, urlunsplit

_home = tempfile.mkdtemp(prefix="evsys-tests-")
_owner = os.getpid()


@atexit.register
def _remove_home() -> None:
    if os.getpid() == _owner:  # a forked child must not remove what its parent still uses
        shutil.rmtree(_home, ignore_errors=True)


os.environ["EVSYS_HOME"] = _home
os.environ["HF_HUB_OFFLINE"] = "1"

from evsys_web.settings import *  # noqa: E402, F403 - the environment above must be set first
from tests.stack import first_broker_number  # noqa: E402

CELERY_BROKER_URL = os.environ.get("EVSYS_TEST_BROKER_URL", "memory://")
if CELERY_BROKER_URL.startswith("redis://"):  # several processes run tests: none may read another's messages
    CELERY_BROKER_URL = urlunsplit(urlsplit(CELERY_BROKER_URL)._replace(path=f"/{first_broker_number()}"))
CELERY_BROKER_TRANSPORT_OPTIONS = {}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # half a second per sign-in otherwise
WHITENOISE_AUTOREFRESH = True  # a file is looked for when it is asked for; each new Client reads the list of all otherwise: 35 ms
API_RATE = 0  # tests call more often; test_rates.py sets one
CACHES = {name: {**CACHES[name], "BACKEND": "django.core.cache.backends.locmem.LocMemCache"} for name in CACHES}  # noqa: F405
