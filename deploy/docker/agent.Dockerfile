# syntax=docker/dockerfile:1
# An agent that speaks through a server, built from the repository's root: it has no model and no torch.
#   docker build -f deploy/docker/agent.Dockerfile --build-arg EXTRAS=livekit -t orpheus-agent:livekit .
FROM python:3.12-slim-bookworm
ARG EXTRAS=livekit
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_LINK_MODE=copy PATH=/app/bin:$PATH
RUN useradd --create-home --uid 10001 agent
# hadolint ignore=DL3013
RUN pip install --no-cache-dir uv && uv venv /app
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY orpheus_plugin ./orpheus_plugin
COPY namespace ./namespace
COPY agent_examples ./agent_examples
RUN --mount=type=cache,target=/root/.cache/uv \
    VIRTUAL_ENV=/app uv pip install ".[${EXTRAS}]"
USER 10001
ENTRYPOINT ["python"]
