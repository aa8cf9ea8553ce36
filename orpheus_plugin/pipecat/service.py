"""A Pipecat TTS service around a speech engine: its settings, its start and its recovery. `tts.py`
has the speaking."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from pipecat.metrics.metrics import MetricsData
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.types import NOT_GIVEN, is_given

from orpheus_plugin.errors import EngineDied, OrpheusError
from orpheus_plugin.events import SAMPLE_RATE
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.pipecat.errors import category_of
from orpheus_plugin.pipecat.settings import OPTIONS, OrpheusTTSSettings, speech_options
from orpheus_plugin.remote.resolve import resolve
from orpheus_plugin.speech_engine import SpeechEngine

READY_TIMEOUT_S = 18.0
"""How long a pipeline waits for the engine. Pipecat abandons a pipeline that is not set up after 20
s."""

RETRY_S = 1.0
"""Seconds between attempts to reach an engine that is gone."""

STALL_TIMEOUT_S = 30.0
"""A reply that gets no audio and does not end for this long is ended. Pipecat's 3 s would cut off
replies of a busy engine."""


class EngineService(TTSService):
    """What `OrpheusTTS` does besides speaking.

    Args:
        engine: not yet started; it stays running when the pipeline ends.
        settings: all of them given.
        **kwargs: passed on to Pipecat's `TTSService`.
    """

    Settings = OrpheusTTSSettings
    _settings: OrpheusTTSSettings

    def __init__(
        self, *, engine: SpeechEngine, settings: OrpheusTTSSettings, **kwargs: Any
    ) -> None:
        settings.voice = engine.check_voice(speech_options(settings).voice)
        settings.model = engine.health().model or settings.model
        kwargs.setdefault("stop_frame_timeout_s", STALL_TIMEOUT_S)
        # Failures are reported with their cause; silence alone never makes this service unusable.
        kwargs.setdefault("max_consecutive_zero_audio_contexts", 0)
        super().__init__(
            push_text_frames=False,
            push_start_frame=True,
            push_stop_frames=True,
            sample_rate=SAMPLE_RATE,
            settings=settings,
            **kwargs,
        )
        self._engine = engine
        self._background: set[asyncio.Task[None]] = set()
        self._recovery: asyncio.Task[None] | None = None

    @classmethod
    async def warm(
        cls,
        *,
        url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        device: str = "auto",
    ) -> SpeechEngine:
        """Load and warm the engine that `OrpheusTTS(...)` with the same arguments will use; returns
        it.

        Call it once, before the first pipeline: loading a large model takes longer than Pipecat
        waits for a pipeline to start. The event loop stays free meanwhile.
        """
        engine = await asyncio.to_thread(
            resolve, url=url, api_key=api_key, model=model, device=device
        )
        await engine.start()
        return engine

    @property
    def engine(self) -> SpeechEngine:
        """The engine: for health, voices, or turns outside the pipeline."""
        return self._engine

    def can_generate_metrics(self) -> bool:
        return True

    @property
    def supports_processing_metrics(self) -> bool:
        return False  # run_tts only passes the text on

    def _classify_error(self, exception: Exception) -> ErrorCategory | None:
        return category_of(exception)

    # ---- life

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override] # as Pipecat does
        """Wait until the engine can speak. A failure makes this service unusable and is
        reported."""
        await super().setup(setup)
        try:
            await asyncio.wait_for(self._engine.start(), READY_TIMEOUT_S)
        except TimeoutError:
            self.recover()
            raise EngineDied(
                f"the speech engine was not ready after {READY_TIMEOUT_S:.0f} s and is still"
                " loading; call `await OrpheusTTS.warm()` once before the first pipeline is"
                " started"
            ) from None
        except OrpheusError as error:
            if error.retryable:
                self.recover()
            raise
        await self._know_the_engine()

    def recover(self, *, after_s: float = 0.0) -> None:
        """Make the service usable again when the engine is there. In the background."""
        if self._recovery is None or self._recovery.done():
            self._recovery = self.in_background(self._become_usable(after_s))

    async def _become_usable(self, after_s: float) -> None:
        """Try to start the engine until it is there. The pipeline runs without speech meanwhile."""
        await asyncio.sleep(after_s)
        while True:
            try:
                await self._engine.start()
                await self._know_the_engine()
            except OrpheusError as error:
                if error.retryable:
                    await asyncio.sleep(RETRY_S)
                    continue
                await self._did_not_start(error)
            except Exception as error:
                await self._did_not_start(error)
            else:
                await self.set_usable(True)
            return

    async def _did_not_start(self, error: Exception) -> None:
        await self.push_error(f"the speech engine did not start: {error}", exception=error)

    async def _know_the_engine(self) -> None:
        """Take over the model's name and voices, which are known when the engine has started."""
        self._settings.voice = self._engine.check_voice(speech_options(self._settings).voice)
        self._settings.model = self._engine.health().model
        self.set_core_metrics_data(
            MetricsData(processor=self.name, model=self._settings.model or "")
        )

    async def cleanup(self) -> None:
        if self._recovery is not None:
            await self.cancel_task(self._recovery)
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=2.0)
            for task in late:
                await self.cancel_task(task)
        await super().cleanup()

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.create_task(work, "orpheus::background")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # ---- settings

    async def _update_settings(self, delta: TTSSettings) -> dict[str, Any]:  # type: ignore[override] # as Pipecat does
        """Apply valid settings. Others keep their old values and are reported; the service goes
        on."""
        delta = replace(delta)
        if is_given(delta.model) and delta.model != self._settings.model:
            self._warn_unhandled_updated_settings(["model"])
        delta.model = NOT_GIVEN
        refused: list[OrpheusError] = []
        for name in OPTIONS:
            value = getattr(delta, name, NOT_GIVEN)
            if not is_given(value):
                continue
            try:
                options = SpeechOptions(**{name: value})
                if name == "voice":
                    delta.voice = self._engine.check_voice(options.voice)
            except OrpheusError as error:
                refused.append(error)
                setattr(delta, name, NOT_GIVEN)
        changed = await super()._update_settings(delta)
        if changed.keys() & set(OPTIONS):
            self.options_changed()
        for refusal in refused:
            await self.push_error(f"setting not changed: {refusal}", exception=refusal)
        return changed

    def options_changed(self) -> None:
        """The options of new turns have changed."""
