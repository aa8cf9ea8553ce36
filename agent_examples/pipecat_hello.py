"""The smallest Pipecat agent that speaks with Orpheus: python pipecat_hello.py, then open http://localhost:7860."""

import asyncio

from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.run import main
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

from orpheus_plugin.pipecat import OrpheusTTS


async def bot(args: RunnerArguments) -> None:
    transport = await create_transport(
        args, {"webrtc": lambda: TransportParams(audio_out_enabled=True)}
    )
    tts = OrpheusTTS(url="local")
    worker = PipelineWorker(Pipeline([transport.input(), tts, transport.output()]))

    @transport.event_handler("on_client_connected")
    async def greet(*_: object) -> None:
        await worker.queue_frame(TTSSpeakFrame("Hello! I am speaking with Orpheus."))

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    asyncio.run(OrpheusTTS.warm(url="local"))  # the first caller does not wait for the model
    main()
