from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
OPEN_WITHOUT_TORCH = """
import asyncio, sys
from pathlib import Path
sys.modules["torch"] = None  # as if it were not installed
from recipes.backends.local import LocalBackend, LocalConfig
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.errors import ConfigError
try:
    asyncio.run(LocalBackend.open(LocalConfig(), model=ModelConfig(), algorithm=BaseAlgorithmConfig(), output_dir=Path(".")))
except ConfigError as error:
    sys.stdout.write(str(error))
"""


def test_without_pytorch_the_local_backend_says_what_to_install() -> None:
    command = [sys.executable, "-c", OPEN_WITHOUT_TORCH]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True).stdout
    assert said.startswith("The local backend needs torch, which is not installed here")
    assert "requirements.txt" in said
