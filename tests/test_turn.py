"""The caller's end of a turn: text in, events out, limits, and what leaving it does."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import Future

import pytest

from orpheus_plugin.errors import EngineDied, InvalidOptions, TextTooLong, TurnClosed
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnStats, Word
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.turn import Turn


class Recorder:
    """A link that records its calls."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.taken = 0

    def send_text(self, text: str) -> None:
        self.sent.append(text)

    def send_flush(self) -> None:
        self.sent.append("[flush]")

    def send_end(self) -> None:
        self.sent.append("[end]")

    def send_cancel(self) -> Future[None]:
        self.sent.append("[cancel]")
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def consumed(self, samples: int) -> None:
        self.taken += samples


async def test_commands_reach_the_link_in_order() -> None:
    link = Recorder()
    turn = Turn("t", link)
    turn.push_text("Hello ")
    turn.push_text("")
    turn.flush()
    turn.push_text("there.")
    turn.end()
    turn.end()
    assert link.sent == ["Hello ", "[flush]", "there.", "[end]"]


async def test_text_beyond_the_limit_is_refused_and_the_turn_continues() -> None:
    link = Recorder()
    turn = Turn("t", link)
    with pytest.raises(TextTooLong, match="6144 characters"):
        turn.push_text("x" * 6145)
    turn.push_text("y" * 6144)
    with pytest.raises(TextTooLong):
        turn.push_text("z")
    turn.end()
    assert link.sent == ["y" * 6144, "[end]"]


async def test_a_thousand_words_that_are_ready_at_once_let_the_callers_loop_run() -> None:
    turn = Turn("t", Recorder())
    turn.deliver(*[Word("so", 0.0, 0.0, 0)] * 1000, TurnEnd("done", TurnStats()))
    passes: Counter[int] = Counter()

    async def read() -> None:
        async for _ in turn:
            passes[now] += 1

    reading = asyncio.create_task(read())
    now = 0
    while not reading.done():
        now += 1
        await asyncio.sleep(0)
    assert passes.total() == 1001
    assert max(passes.values()) <= 8


THOUGHT = "<think>The user greets me. 1 < 2 </b>\n</think>\n\nHello <laugh> 3 < 4 <"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_thoughts_are_not_spoken_however_the_text_is_split(size: int) -> None:
    link = Recorder()
    turn = Turn("t", link, max_chars=40)
    for at in range(0, len(THOUGHT), size):
        turn.push_text(THOUGHT[at : at + size])
    turn.end()
    assert link.sent.pop() == "[end]"
    assert "".join(link.sent) == "\n\nHello <laugh> 3 < 4 <"


@pytest.mark.parametrize(
    ("pieces", "spoken"),
    [
        (["Yes. <Thinking>no", "</thinking> Done."], "Yes.  Done."),
        (["<think>cut off"], ""),
        (["<think>cut off </thi"], ""),
        (["a </think> b"], "a  b"),
        (["<thinker> is a word"], "<thinker> is a word"),
        (["wait <thin", "g"], "wait <thing"),
    ],
)
async def test_thoughts_end_at_their_closing_tag(pieces: list[str], spoken: str) -> None:
    link = Recorder()
    turn = Turn("t", link)
    for piece in pieces:
        turn.push_text(piece)
    turn.end()
    assert "".join(link.sent[:-1]) == spoken


async def test_a_flush_within_a_closing_tag_does_not_lose_what_follows() -> None:
    link = Recorder()
    turn = Turn("t", link)
    turn.push_text("<think>hm</thi")
    turn.flush()
    turn.push_text("nk>Hello.")
    turn.end()
    assert link.sent == ["[flush]", "Hello.", "[end]"]


async def test_text_that_may_become_a_tag_counts() -> None:
    link = Recorder()
    turn = Turn("t", link, max_chars=5)
    with pytest.raises(TextTooLong):
        turn.push_text("12345<")
    turn.push_text("1234<")
    turn.end()
    assert link.sent == ["1234", "<", "[end]"]


async def test_text_after_the_end_is_an_error() -> None:
    turn = Turn("t", Recorder())
    turn.end()
    with pytest.raises(TurnClosed):
        turn.push_text("more")


async def test_events_come_in_order_and_consumption_is_reported() -> None:
    link = Recorder()
    turn = Turn("t", link)
    end = TurnEnd("done", TurnStats(tokens=7))
    chunk = AudioChunk(b"\0\0" * 10, 0, 0)
    await asyncio.to_thread(turn.deliver, chunk)
    await asyncio.to_thread(turn.deliver, end)
    assert [event async for event in turn] == [chunk, end]
    assert link.taken == 10
    assert turn.stats.tokens == 7
    assert "[cancel]" not in link.sent


async def test_an_error_is_raised_after_the_events_before_it() -> None:
    turn = Turn("t", Recorder())
    turn.deliver(AudioChunk(b"\0\0", 0, 0))
    turn.deliver(EngineDied("gone"))
    seen = []
    with pytest.raises(EngineDied, match="gone"):
        async for event in turn:
            seen.append(event)
    assert len(seen) == 1


async def test_leaving_the_iterator_cancels() -> None:
    link = Recorder()
    turn = Turn("t", link)
    turn.deliver(AudioChunk(b"\0\0", 0, 0))
    events = turn.__aiter__()
    await anext(events)
    await events.aclose()
    assert link.sent == ["[cancel]"]
    await turn.cancel()
    assert link.sent == ["[cancel]"]


async def test_cancelling_after_leaving_the_iterator_waits_for_the_engine() -> None:
    class Slow(Recorder):
        def send_cancel(self) -> Future[None]:
            self.done: Future[None] = Future()
            return self.done

    link = Slow()
    turn = Turn("t", link)
    turn.deliver(AudioChunk(bytes(4), 0, 0))
    async for _ in turn:
        break
    cancelling = asyncio.create_task(turn.cancel())
    await asyncio.sleep(0.05)
    assert not cancelling.done()
    link.done.set_result(None)
    await asyncio.wait_for(cancelling, 1)


async def test_cancel_wakes_a_waiting_reader() -> None:
    turn = Turn("t", Recorder())

    async def read() -> list[object]:
        return [event async for event in turn]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    await turn.cancel()
    events = await asyncio.wait_for(reading, 1)
    assert [type(event) for event in events] == [TurnEnd]
    assert events[0].reason == "cancelled"  # type: ignore[attr-defined]


async def test_leaving_the_context_cancels_an_unfinished_turn_only() -> None:
    link = Recorder()
    async with Turn("t", link):
        pass
    assert link.sent == ["[cancel]"]
    finished = Recorder()
    async with Turn("t", finished) as turn:
        turn.deliver(TurnEnd("done"))
        assert [event async for event in turn]
    assert finished.sent == []


def test_delivering_to_a_closed_loop_returns_false() -> None:
    async def make() -> Turn:
        return Turn("t", Recorder())

    turn = asyncio.run(make())
    assert turn.deliver(TurnEnd("done")) is False


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"repetition_penalty": 0.5},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": True},
        {"voice": 3},
    ],
)
def test_options_out_of_range_are_refused_by_the_constructor(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidOptions, match=next(iter(bad))):
        SpeechOptions(**bad)  # type: ignore[arg-type]
