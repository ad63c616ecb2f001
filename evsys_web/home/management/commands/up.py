"""`manage.py up`: everything a newcomer needs, from an empty folder to the first page, in one process to stop with Ctrl-C."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError

from evsys_web.accounts.actions import ensure_admin
from evsys_web.datasets.actions import import_starter_rows
from evsys_web.evals.starter import import_starter_benchmark
from evsys_web.home.lock import HomeInUse, alone_in_home
from evsys_web.supervisor import Child, Supervisor

PATIENCE_SECONDS = 60


class Command(BaseCommand):
    help = "Migrate, make the administrator, start the pages and a worker; PORT and EVSYS_HOST say where. Ctrl-C stops all."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--hosted", action="store_true", help="Install no PyTorch (read before this command starts).")
        parser.add_argument("--prepare-only", action="store_true", help="Tables and the administrator; then end (containers).")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["prepare_only"]:
            self.prepare()
            return
        with self.only_one():
            refuse_a_busy_port(settings.HOST, settings.PORT)
            self.prepare()
            self.say("Starting the pages and a worker …")
            Supervisor(children(), say=self.say).run(on_tick=Readiness(self.say))
            self.say("Stopped.")

    def prepare(self) -> None:
        """Tables, the administrator, and on the very first start something to train on and to evaluate with."""
        try:
            call_command("migrate", verbosity=0, interactive=False)
        except OperationalError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CommandError(f"The database cannot be prepared; look at DATABASE_URL. It said: {reason}") from None
        admin, password = ensure_admin()
        if password is None:
            return
        import_starter_rows(project=admin.default_project(), user=admin)
        import_starter_benchmark(admin.default_project(), admin)
        self.say(f"\n  Sign in as   {admin.username}\n  Password     {password}\n")
        self.say(f"The password is shown this once; `python3 manage.py changepassword {admin.username}` sets a new one.")

    def say(self, sentence: str) -> None:
        self.stdout.write(sentence)
        self.stdout.flush()

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """Two supervisors on one EVSYS_HOME would share a worker's name and a broker."""
        with ExitStack() as held:
            try:
                held.enter_context(alone_in_home(f"{page_url()} (process {os.getpid()})"))
            except HomeInUse as error:
                raise CommandError(f"EvSys Web already runs on {settings.HOME}: {error}") from None
            yield


class Readiness:
    """Says once where the pages are, when they answer; and once that they are late."""

    def __init__(self, say: Any) -> None:
        self.say = say
        self.began = time.monotonic()
        self.ready = self.late = False

    def __call__(self) -> None:
        if self.ready:
            return
        answer = ask_readiness()
        if answer == "ready":
            self.ready = True
            self.say(f"\n  EvSys Web is ready at {page_url()}\n\nStop with Ctrl-C.")
        elif not self.late and time.monotonic() - self.began > PATIENCE_SECONDS:
            self.late = True
            self.say(f"Not ready after {PATIENCE_SECONDS} s: {answer}")


def ask_readiness() -> str:
    """`ready`, or why not."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.HOST, settings.HOST)  # nosec B104
    names = [name.lstrip(".") for name in settings.ALLOWED_HOSTS if name != "*"]
    with closing(http.client.HTTPConnection(address, settings.PORT, timeout=2)) as connection:
        try:
            connection.request("GET", "/health/ready", headers={"Host": names[0] if names else "localhost"})
            response = connection.getresponse()
            body = response.read(2000).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return f"the pages do not answer ({error})"
    return "ready" if response.status == 200 else body


def children() -> list[Child]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    serve = ["uvicorn", "evsys_web.asgi:application", "--host", settings.HOST, "--port", str(settings.PORT)]
    # Open streams would hold a stop for ever; proxy headers are believed only where a proxy is said to be.
    serve += ["--timeout-graceful-shutdown", "2", "--proxy-headers" if settings.HTTPS else "--no-proxy-headers"]
    serve += ["--forwarded-allow-ips", settings.FORWARDED_ALLOW_IPS]
    serve += ["--log-level", "warning", "--no-access-log", "--no-server-header", "--lifespan", "off", "--ws", "none"]
    quiet = ["--loglevel", "warning", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    celery = ["celery", "--quiet", "-A", "evsys_web", "worker", *quiet]
    unchecked = {**environment, "CELERY_SKIP_CHECKS": "1"}  # this process has just checked; each would load all pages to do so
    tell = [*celery, "-n", "messages@%h", "-Q", "messages", "-P", "threads", "-c", "4"]  # must not wait behind an hour's training
    return [
        Child("web process", [sys.executable, "-m", *serve], environment, settings.ROOT),
        *(Child(name, [sys.executable, "-m", *celery, *work], unchecked, settings.ROOT) for name, work in workers().items()),
        Child("messenger", [sys.executable, "-m", *tell], unchecked, settings.ROOT),
    ]


def workers() -> dict[str, list[str]]:
    """Queues with a concurrency of their own have a worker of their own; the others share the one that trains, which does one
    thing at a time unless it is told to train several."""
    own = {queue: number for queue, number in settings.CONCURRENCY.items() if number and queue != "training"}
    shared = ",".join(queue for queue in settings.CONCURRENCY if queue not in own)
    found = {"worker": ["-n", "evsys@%h", "-Q", shared, "-c", str(settings.CONCURRENCY["training"])]}
    return found | {f"{queue} worker": ["-n", f"{queue}@%h", "-Q", queue, "-c", str(number)] for queue, number in own.items()}


def page_url() -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.HOST, settings.HOST)  # nosec B104
    return f"http://{host}:{settings.PORT}/"


def refuse_a_busy_port(host: str, port: int) -> None:
    """Raises CommandError with a port that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise CommandError(f"Port {port} needs administrator rights. Try: PORT=8000 python3 manage.py up") from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CommandError(f"EVSYS_HOST {host} is no address of this machine ({error.strerror}).") from None
            probe.bind((host, 0))
            free = probe.getsockname()[1]
            raise CommandError(f"Port {port} is taken by another program. Try: PORT={free} python3 manage.py up") from None
