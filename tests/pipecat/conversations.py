"""Frames in, frames out: a service in a pipeline of its own, and how to read what it pushed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from pipecat.frames.frames import (
    AggregatedTextProgressFrame,
    ErrorFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    MetricsFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.metrics.metrics import MetricsData
from pipecat.pipeline.worker import PipelineParams
from pipecat.tests.utils import run_test

from orpheus_plugin.pipecat import OrpheusTTS

THREE = "Hello there my friend. How are you today? I am fine."


def reply(text: str) -> list[Frame]:
    """A reply as a language model streams it, word by word."""
    words = [LLMTextFrame(f"{word} ") for word in text.split()]
    return [LLMFullResponseStartFrame(), *words, LLMFullResponseEndFrame()]


async def run(
    tts: OrpheusTTS,
    frames: Sequence[Frame],
    *,
    out_rate: int = 24_000,
    end: bool = True,
    start_timeout: float = 5.0,
) -> tuple[list[Frame], list[ErrorFrame]]:
    """What came out below, and the errors that came out above."""
    down, up = await run_test(
        tts,
        frames_to_send=frames,
        send_end_frame=end,
        start_timeout=start_timeout,
        pipeline_params=PipelineParams(
            audio_out_sample_rate=out_rate, enable_metrics=True, enable_usage_metrics=True
        ),
    )
    return list(down), [frame for frame in up if isinstance(frame, ErrorFrame)]


def kinds(frames: Sequence[Frame]) -> list[str]:
    """The frames' names, without metrics and progress; runs of audio and of words count once."""
    names: list[str] = []
    for frame in frames:
        if isinstance(frame, MetricsFrame | AggregatedTextProgressFrame):
            continue
        name = type(frame).__name__
        if name in ("TTSAudioRawFrame", "TTSTextFrame"):
            name = "speech"
        if not (names and names[-1] == name == "speech"):
            names.append(name)
    return names


def audio(frames: Sequence[Frame]) -> list[TTSAudioRawFrame]:
    return [frame for frame in frames if isinstance(frame, TTSAudioRawFrame)]


def seconds(frames: Sequence[Frame]) -> float:
    return sum(len(frame.audio) / 2 / frame.sample_rate for frame in audio(frames))


def words(frames: Sequence[Frame], context_id: str | None = None) -> list[TTSTextFrame]:
    return [
        frame
        for frame in frames
        if isinstance(frame, TTSTextFrame) and context_id in (None, frame.context_id)
    ]


def text(frames: Sequence[Frame]) -> str:
    """What the agent will remember having said."""
    return " ".join(frame.text for frame in words(frames) if frame.append_to_context)


def metrics(frames: Sequence[Frame], kind: type[MetricsData]) -> list[MetricsData]:
    return [
        data
        for frame in frames
        if isinstance(frame, MetricsFrame)
        for data in frame.data
        if isinstance(data, kind)
    ]


def end_servers(state: Path) -> None:
    """End the speech servers that were started with this state directory; by themselves they wait
    for more users."""
    for record in state.glob("server-*.json"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(json.loads(record.read_text("utf-8"))["pid"], signal.SIGTERM)
