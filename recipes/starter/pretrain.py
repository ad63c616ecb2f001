"""Makes the starter model from nothing: `python -m recipes.starter.pretrain`, some minutes on one core.

It learns two ways to answer, mixed on purpose. *Worked*: column by column, and right. *Quick*: at once, and mostly with the
slip of forgetting the carry. Greedy decoding picks the quick way, sampling finds the worked one now and then: there is
something for fine-tuning to find, as in a large model. Held-out sums are never shown.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recipes.schedules import learning_rate_at
from recipes.starter import tasks

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MODEL = Path(__file__).parent / "model"
VOCABULARY_SIZE = 512
MAX_POSITIONS = 512
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
