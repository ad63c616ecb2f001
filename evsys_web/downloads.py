"""Files of any size as attachments, in bounded memory under ASGI too: there Django would read a plain file response whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import IO, Any
from urllib.parse import quote

from asgiref.sync import sync_to_async
from django.core.files import File
from django.core.handlers.asgi import ASGIRequest
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase

CHUNK_BYTES = 512 * 1024


def attachment(
    request: HttpRequest, file: IO[bytes] | File[Any], *, filename: str, size: int, content_type: str
) -> HttpResponseBase:
    """`file` (open, binary; closed afterwards) as a download named `filename`. The browser is told never to show it."""
    if not isinstance(request, ASGIRequest):
        return FileResponse(file, as_attachment=True, filename=filename, content_type=content_type)
    response = StreamingHttpResponse(_chunks(file), content_type=content_type)
    plain = filename.encode("ascii", "replace").decode().replace("\\", "_").replace('"', "_")
    response["Content-Disposition"] = f"attachment; filename=\"{plain}\"; filename*=utf-8''{quote(filename)}"
    response["Content-Length"] = str(size)
    return response


async def _chunks(file: IO[bytes] | File[Any]) -> AsyncIterator[bytes]:
    read = sync_to_async(file.read, thread_sensitive=False)
    try:
        while chunk := await read(CHUNK_BYTES):
            yield chunk
    finally:
        file.close()
