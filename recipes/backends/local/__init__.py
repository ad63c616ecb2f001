"""Training and sampling on this machine: PyTorch, transformers and PEFT behind the Backend protocol.

Importing this loads none of the three; `LocalBackend.open` does. Reading order: config → models → backend → engine →
batching → projection → optimizer → sampler → decoding → contexts → drawing → scoring.
"""

from recipes.backends.local.backend import LocalBackend
from recipes.backends.local.config import LocalConfig

__all__ = ["LocalBackend", "LocalConfig"]
