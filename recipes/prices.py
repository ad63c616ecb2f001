"""What hosts bill for training and sampling, and which models they train: dated data; prices.yaml says how to edit it."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

_FILE = Path(__file__).with_name("prices.yaml")
ANY = "*"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Weights(StrEnum):
    ADAPTER = "adapter"
    ALL = "all"


class PerMillion(_Row):
    """Dollars per million tokens; None is not known."""

    train: float | None = Field(None, ge=0)
    prefill: float | None = Field(None, ge=0)
    sample: float | None = Field(None, ge=0)


class _Dated(_Row):
    """`said` is what a page shows beside a price that was worked out with this row."""

    models: list[str] = Field(min_length=1)
    per_million: PerMillion = PerMillion()
    as_of: date
    source: str = Field(min_length=1)

    def names(self, model_name: str) -> bool:
        return any(fnmatchcase(model_name, pattern) for pattern in self.models)

    @property
    def said(self) -> str:
        return f"as of {self.as_of:%d %B %Y}: {self.source}"


class Rate(_Dated):
    """What a backend bills."""

    backend: str
    algorithms: list[str] = Field(min_length=1)
    weights: Weights | None = None
    per_hour: float | None = Field(None, ge=0)

    def fits(self, backend: str, algorithm: str, model_name: str, weights: Weights) -> bool:
        return (
            backend == self.backend
            and (ANY in self.algorithms or algorithm in self.algorithms)
            and self.weights in (None, weights)
            and self.names(model_name)
        )


class Served(_Dated):
    """What the endpoints of some hosts bill."""

    hosts: list[str] = Field(min_length=1)


class Machine(_Row):
    """What an accelerator costs where it serves, or trains as a machine of one's own. per_hour: dollars for one of them."""

    backend: str
    accelerator: str
    per_hour: float = Field(ge=0)
    as_of: date
    source: str = Field(min_length=1)

    @property
    def said(self) -> str:
        return f"as of {self.as_of:%d %B %Y}: {self.source}"


class Shape(_Row):
    """What a backend is known to have trained a model on, in its word."""

    backend: str
    models: list[str] = Field(min_length=1)
    shape: str
    as_of: date
    source: str

    @property
    def said(self) -> str:
        return f"{self.shape} (as of {self.as_of:%d %B %Y}: {self.source})"


class Offer(_Row):
    """Models that a backend is known to have trained."""

    backend: str
    names: list[str]
    as_of: date
    source: str


class PriceList(_Row):
    billed: frozenset[str]
    prices: list[Rate]
    endpoints: list[Served] = []
    machines: list[Machine] = []
    shapes: list[Shape] = []
    models: list[Offer] = []


@cache
def price_list() -> PriceList:
    return PriceList.model_validate(yaml.safe_load(_FILE.read_text(encoding="utf-8")))


def is_billed(backend: str) -> bool:
    """Whether training there costs money."""
    return backend in price_list().billed


def rate_of(backend: str, algorithm: str, model_name: str, *, weights: Weights = Weights.ADAPTER) -> Rate | None:
    """The first row that fits; None when no price is known."""
    return next((rate for rate in price_list().prices if rate.fits(backend, algorithm, model_name, weights)), None)


def rate_at(host: str, model_name: str) -> Served | None:
    """The first row that fits an endpoint; None when no price is known."""
    rows = price_list().endpoints
    return next((rate for rate in rows if host.lower() in rate.hosts and rate.names(model_name)), None)


def machine_rate(backend: str, accelerator: str) -> Machine | None:
    """accelerator: in the service's word. None when no price is known."""
    return next((row for row in machines_of(backend) if row.accelerator == accelerator), None)


def hourly_words(backend: str, accelerator: str, number: int) -> str:
    """What so many of them cost an hour, for a sentence. accelerator: in the service's word, empty where it says none."""
    rate = machine_rate(backend, accelerator)
    return f"about ${rate.per_hour * number:,.2f} an hour ({rate.said})" if rate else "at a price that is not known"


def machines_of(backend: str) -> list[Machine]:
    """Those whose price is known."""
    return [row for row in price_list().machines if row.backend == backend]


def shape_of(backend: str, model_name: str) -> Shape | None:
    """One to name for this model; None when none is known."""
    rows = [row for row in price_list().shapes if row.backend == backend]
    return next((row for row in rows if any(fnmatchcase(model_name, pattern) for pattern in row.models)), None)


def models_of(backend: str) -> list[str]:
    """Names that forms offer for this backend."""
    return [name for offer in price_list().models if offer.backend == backend for name in offer.names]


def models_offered() -> list[str]:
    """The same of all backends."""
    return [name for offer in price_list().models for name in offer.names]
