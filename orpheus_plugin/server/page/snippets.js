// How other programs speak through this server; its address and a voice are filled in.

export function snippets({ url, voice, key }) {
  const secret = key ? ', api_key=os.environ["ORPHEUS_API_KEY"]' : "";
  const bring = key ? "import os\n\n" : "";
  const header = key ? ' \\\n  -H "Authorization: Bearer $ORPHEUS_API_KEY"' : "";
  const ws = url.replace(/^http/, "ws");
  return {
    Pipecat: `${bring}from orpheus_plugin.pipecat import OrpheusTTS\n\ntts = OrpheusTTS(\n    url="${url}"${secret},\n    settings=OrpheusTTS.Settings(voice="${voice}"),\n)`,
    LiveKit: `${bring}from livekit.agents import AgentSession\nfrom orpheus_plugin.livekit import OrpheusTTS\n\nsession = AgentSession(\n    tts=OrpheusTTS(url="${url}"${secret}, voice="${voice}"),\n    use_tts_aligned_transcript=True,\n)`,
    OpenAI: `${bring}import openai\n\nclient = openai.OpenAI(base_url="${url}/v1", api_key=${key ? 'os.environ["ORPHEUS_API_KEY"]' : '"none"'})\nwith client.audio.speech.with_streaming_response.create(\n    model="tts-1", voice="${voice}", input="Hello there.", response_format="wav"\n) as answer:\n    answer.stream_to_file("hello.wav")`,
    curl: `curl ${url}/v1/audio/speech${header} \\\n  -H "Content-Type: application/json" \\\n  -d '{"input": "Hello there.", "voice": "${voice}"}' -o hello.mp3`,
    "LiveKit's Baseten plugin": `${bring}from livekit.plugins import baseten\n\ntts = baseten.TTS(\n    model="qwen3-tts",\n    voice="${voice}",\n    word_timestamps=True,\n    api_key=${key ? 'os.environ["ORPHEUS_API_KEY"]' : '"none"'},\n    model_endpoint="${ws}/v1/audio/speech/stream",\n)`,
    unmute: `export KYUTAI_TTS_URL=${ws}`,
  };
}
