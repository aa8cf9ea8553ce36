"""Korean: numbers, percentages and money."""

from __future__ import annotations

from orpheus_plugin.text.languages.base import Language

LANGUAGE = Language(
    code="ko",
    decimals={".": "점"},
    groups=",",
    glued=True,
    digits=("공", "일", "이", "삼", "사", "오", "육", "칠", "팔", "구"),
    minus="마이너스",
    plus="플러스",
    to="에서",
    currencies={
        "₩": ("일 원", "원", "", ""),
        "$": ("일 달러", "달러", "일 센트", "센트"),
        "€": ("일 유로", "유로", "일 센트", "센트"),
    },
    units={"%": ("일 퍼센트", "퍼센트"), "°c": ("일 도", "도"), "°": ("일 도", "도")},
    lone_currencies={"₩": "원", "$": "달러", "€": "유로"},
)
