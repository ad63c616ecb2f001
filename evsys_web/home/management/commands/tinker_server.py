"""`manage.py tinker-server`: what speaks to Tinker speaks to this machine. Loopback only, with a key, in a process of its own."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from evsys_web.addresses import is_loopback
from recipes.backends.local.config import LocalConfig
from recipes.errors import RecipeError
from recipes.tinker_server import make_server

PORT = 8100


class Command(BaseCommand):
    help = "Serve models of this machine to the official tinker SDK and whatever is built on it."
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "models",
            nargs="*",
            default=["starter"],
            help="NAME, or NAME=SOURCE to serve SOURCE under another name: starter, a folder, or a hub id.",
        )
        parser.add_argument("--host", default="127.0.0.1", help="A loopback address.")
        parser.add_argument("--port", type=int, default=PORT)
        parser.add_argument("--root", type=Path, default=None, help="Where checkpoints are kept; by default in EVSYS_HOME.")
        parser.add_argument("--threads", type=int, default=0, help="Processor threads; 0 chooses by the model's size.")

    def handle(self, *args: Any, **options: Any) -> None:
        host, port = options["host"], options["port"]
        if not is_loopback(host):
            raise CommandError(f"This server is for this machine alone: {host} is no loopback address.")
        key = settings.TINKER_KEY or f"tml-{secrets.token_urlsafe(24)}"
        root = options["root"] or Path(settings.HOME) / "tinker"
        try:
            app = make_server(options["models"], root=root, key=key, config=LocalConfig(num_threads=options["threads"]))
        except (RecipeError, ValueError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Serving {', '.join(options['models'])}. Point the SDK here:\n")
        self.stdout.write(f"  export TINKER_BASE_URL=http://{host}:{port}")
        shown = "$EVSYS_TINKER_KEY" if settings.TINKER_KEY else key
        self.stdout.write(f"  export TINKER_API_KEY={shown}\n\nStop with Ctrl-C.")
        self.stdout.flush()
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)
