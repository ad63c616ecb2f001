# One image for every program of the grown size; compose.yaml says which of them a container runs.
#   docker build --tag evsys .                                              with PyTorch: trains on this machine
#   docker build --tag evsys --build-arg REQUIREMENTS=requirements-hosted.txt .     without: trains on hosted services
FROM python:3.11-slim

ARG REQUIREMENTS=requirements.txt
WORKDIR /app
COPY requirements*.txt ./
RUN pip install --no-cache-dir -r "${REQUIREMENTS}" -r requirements-s3.txt -r requirements-tracing.txt
COPY manage.py pyproject.toml ./
COPY recipes recipes
COPY evsys_web evsys_web
COPY templates templates
COPY static static

# Nobody in the container may change the program; everything that is kept lies in one volume.
RUN useradd --system --uid 10001 --home-dir /srv/evsys evsys \
    && install --directory --owner=evsys --mode=0700 /srv/evsys
ENV EVSYS_HOME=/srv/evsys \
    PYTHONUNBUFFERED=1 \
    LOG_FORMAT=json
USER 10001
VOLUME /srv/evsys
EXPOSE 8000
CMD ["python", "-m", "uvicorn", "evsys_web.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "2", "--no-access-log", "--no-server-header", "--lifespan", "off", "--ws", "none"]
