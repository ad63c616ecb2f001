"""What every backend has in common that lives at a service: its own, or a server of somebody else's that speaks its protocol."""

from __future__ import annotations

from pydantic import field_validator

from recipes.addresses import checked_address
from recipes.config import Settings, knob


class HostedSettings(Settings):
    """A service restates both fields to say its names."""

    base_url: str | None = knob(
        None, "Address of a server that speaks the service's protocol; empty is the service itself.", max_length=1000
    )
    credential: str | None = knob(None, "Name of the stored key to send.", max_length=200, essential=True)

    @property
    def is_billed(self) -> bool:
        """By the service; what another server costs is its owner's business."""
        return self.base_url is None

    _is_an_address = field_validator("base_url")(checked_address)
