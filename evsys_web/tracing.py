"""OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector: a span per request and per task, sent in the background.

Needs requirements-tracing.txt; without the variable nothing of it is imported. Its own variables say the rest (headers, sampling,
resource). Spans carry neither bodies nor headers nor queries, since those may hold what users keep private.
"""

from __future__ import annotations

from importlib.util import find_spec

from django.conf import settings

MODULES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", "opentelemetry.instrumentation.django")


def is_installed() -> bool:
    try:
        return all(find_spec(module) is not None for module in MODULES)
    except ModuleNotFoundError:  # not even the parent package
        return False


def begin() -> None:
    """Once a process, before Django reads its middleware. The sending thread begins again in whatever is forked."""
    if not settings.TRACES_ENDPOINT or not is_installed():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import set_tracer_provider

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "evsys"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    set_tracer_provider(provider)
    DjangoInstrumentor().instrument(excluded_urls="health/.*,metrics$")
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]
