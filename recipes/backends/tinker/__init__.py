"""Training on Tinker, or on any server that speaks its protocol, through the official SDK."""

from __future__ import annotations

from recipes.backends.tinker.backend import TinkerBackend as TinkerBackend
