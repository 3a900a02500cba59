FROM python:3.11-slim AS build
WORKDIR /app
RUN python -m venv /venv
# The lock has the extras otel, sentry and s3 too: traces, reported errors, archives in object stores.
COPY requirements.lock ./
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml ./
COPY domain domain
COPY eventstore eventstore
COPY commands commands
COPY projections projections
COPY readmodels readmodels
COPY ml ml
COPY api api
COPY chainlytics chainlytics
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
# Volumes take over who owns these: the archive, the home folder, and the token that Prometheus (65534) asks with.
RUN useradd --create-home --uid 10001 chainlytics \
    && install --directory --owner=chainlytics /archive /var/lib/chainlytics \
    && install --directory --owner=65534 --mode=0700 /run/scrape
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER chainlytics
WORKDIR /home/chainlytics
EXPOSE 8000
# For the API on its own; docker-compose.yml asks each service's health port instead.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=5 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/api/v1/health', timeout=2)"]
ENTRYPOINT ["chainlytics"]
CMD ["api", "--host", "0.0.0.0", "--port", "8000"]
