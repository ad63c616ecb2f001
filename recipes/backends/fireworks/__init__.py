"""Training on Fireworks: its managed jobs, for algorithms that leave a whole run to the service."""

from __future__ import annotations

from recipes.backends.fireworks.backend import FireworksBackend as FireworksBackend
