"""The known models: their repositories, voices, languages, tags and licenses.

Facts: canopylabs' model cards and README, and the multilingual table of
canopylabs.ai/releases/orpheus_can_speak_any_language.
"""

from __future__ import annotations

from dataclasses import dataclass

from orpheus_plugin.sampling import SamplingParams

SNAC_24KHZ = "hubertsiuzdak/snac_24khz"

_LLAMA_LICENCE = (
    "Llama 3 Community License for the weights, say their authors (the model cards say Apache-2.0);"
    " SNAC codec: MIT"
)


@dataclass(frozen=True)
class ModelSpec:
    """What a model can do and where it comes from.

    Attributes:
        name: what users type.
        repo_ids: hub repositories that hold it, the official one first. Empty for local and bundled
            models.
        voices: the first is the default; empty when unknown, then any voice is accepted.
        languages: ISO 639-1 codes.
        tags: emotion tags the model was trained on, without their angle brackets.
        license: of the weights, as text.
        sampling: the defaults of this model.
        codec_repo: hub repository of its SNAC codec, for a model that does not bring its own.
        spell_numbers: whether numbers must be written out in words before the model sees them.
        max_utterance_chars: longest utterance it speaks well; None is the default.
    """

    name: str
    repo_ids: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    tags: tuple[str, ...] = ()
    license: str = "unknown: ask the authors of the model"
    sampling: SamplingParams = SamplingParams()  # noqa: RUF009 - frozen
    codec_repo: str = SNAC_24KHZ
    spell_numbers: bool = False
    max_utterance_chars: int | None = None


def _language(code: str, repo: str, voices: str, tags: str, *mirrors: str) -> tuple[str, ModelSpec]:
    name = f"orpheus-3b-{code}"
    return name, ModelSpec(
        name=name,
        repo_ids=(repo, *mirrors),
        voices=tuple(voices.split()),
        languages=(code,),
        tags=tuple(t.replace("_", " ") for t in tags.split()),
        license=_LLAMA_LICENCE,
    )


_RESEARCH = "canopylabs/3b-{}-ft-research_release"
CATALOG: dict[str, ModelSpec] = {
    "orpheus-3b": ModelSpec(
        name="orpheus-3b",
        repo_ids=(
            "canopylabs/orpheus-3b-0.1-ft",
            "unsloth/orpheus-3b-0.1-ft",
            "baseten/orpheus-3b-0.1-ft",
        ),
        voices=("tara", "leah", "jess", "leo", "dan", "mia", "zac", "zoe"),
        tags=("laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp"),
        license=_LLAMA_LICENCE,
    ),
    **dict(
        (
            _language(
                "fr",
                _RESEARCH.format("fr"),
                "pierre amelie marie",
                "chuckle cough gasp groan laugh sigh sniffle whimper yawn",
            ),
            _language(
                "de",
                _RESEARCH.format("de"),
                "jana thomas max",
                "chuckle cough gasp groan laugh sigh sniffle yawn",
            ),
            _language(
                "ko",
                _RESEARCH.format("ko"),
                "유나 준서",
                "한숨 헐 헛기침 훌쩍 하품 낄낄 신음 작은_웃음 기침 으르렁",
            ),
            _language("hi", _RESEARCH.format("hi"), "ऋतिका", ""),
            _language(
                "zh",
                _RESEARCH.format("zh"),
                "长乐 白芷",
                "嬉笑 轻笑 呻吟 大笑 咳嗽 抽鼻子 咳",
            ),
            _language(
                "es",
                _RESEARCH.format("es_it"),
                "javi sergio maria",
                "groan chuckle gasp resoplido laugh yawn cough",
            ),
            _language(
                "it",
                _RESEARCH.format("es_it"),
                "pietro giulia carlo",
                "sigh laugh cough sniffle groan yawn gemito gasp",
            ),
        )
    ),
}
ALIASES = {
    "english": "orpheus-3b",
    "orpheus-3b-en": "orpheus-3b",
    "french": "orpheus-3b-fr",
    "german": "orpheus-3b-de",
    "korean": "orpheus-3b-ko",
    "hindi": "orpheus-3b-hi",
    "mandarin": "orpheus-3b-zh",
    "chinese": "orpheus-3b-zh",
    "spanish": "orpheus-3b-es",
    "italian": "orpheus-3b-it",
}
