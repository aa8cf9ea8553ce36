"""The smallest LiveKit agent that speaks with Orpheus: python livekit_hello.py dev

It joins the rooms of LIVEKIT_URL, with LIVEKIT_API_KEY and LIVEKIT_API_SECRET.
"""

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli

from orpheus_plugin.livekit import OrpheusTTS, load_fnc

speech_load = load_fnc()
server = AgentServer(load_fnc=speech_load)


@server.rtc_session()
async def entry(ctx: JobContext) -> None:
    session = AgentSession[None](tts=OrpheusTTS(), vad=None, turn_handling={"turn_detection": None})
    await session.start(Agent(instructions="Greet the caller."), room=ctx.room)
    await session.say("Hello! I am speaking with Orpheus.")


if __name__ == "__main__":
    speech_load.warm()  # the first caller does not wait for the model
    cli.run_app(server)
