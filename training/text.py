"""Sentences to learn from: WordNet's example sentences, agents' sentences from templates,
fragments.

Everything the model reads is written with the letters a-z and a little punctuation; numbers are
spelled out here exactly as the package spells them before its model (``num2words``).
A held-out set is split off first and nothing of it (nor a fragment of it) is trained on.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from num2words import num2words

from orpheus_plugin.evaluation.sentences import HAND_WRITTEN
from training import wordnet


def _list(text: str) -> list[str]:
    return text.split(", ")


FIRST_NAMES = _list(
    "Anna, Ben, Carla, David, Emma, Frank, Grace, Henry, Isabel, Jack, Karen, Liam, Maria, "
    "Noah, Olivia, Peter, Quinn, Rachel, Sam, Tina, Victor, Wendy, Zoe, Alex, Brian, Chloe, "
    "Daniel, Elena, Fiona, George, Hannah, Ivan, Julia, Kevin, Laura, Mark, Nina, Oscar, Paula, "
    "Robert, Sarah, Thomas, Ursula, Vera, William, Yusuf, Priya, Chen, Omar, Fatima, Diego, "
    "Sofia, Kenji, Amara, Leo, Mia, Jordan, Taylor, Morgan, Casey, Jamie, Riley, Michael, "
    "Jennifer, Linda, James, Patricia, Elizabeth, Susan, Jessica, Joseph, Charles"
)
LAST_NAMES = _list(
    "Smith, Johnson, Williams, Brown, Jones, Garcia, Miller, Davis, Wilson, Anderson, Thomas, "
    "Taylor, Moore, Jackson, Martin, Lee, Thompson, White, Harris, Clark, Lewis, Robinson, "
    "Walker, Young, Allen, King, Wright, Scott, Green, Baker, Adams, Nelson, Hill, Campbell, "
    "Mitchell, Roberts, Carter, Phillips, Evans, Turner, Parker, Collins, Edwards, Stewart, "
    "Morris, Murphy, Cook, Rogers"
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = _list(
    "January, February, March, April, May, June, July, August, September, October, November, "
    "December"
)
CITIES = _list(
    "London, Paris, Berlin, Madrid, Rome, New York, Boston, Chicago, Seattle, Denver, Austin, "
    "Toronto, Sydney, Tokyo, Delhi, Dublin, San Francisco, Los Angeles, Miami, Atlanta, "
    "Portland, Vienna, Zurich, Oslo, Lisbon, Singapore, Houston, Dallas, Philadelphia"
)
STREETS = _list(
    "Main Street, Oak Avenue, Park Road, Maple Drive, High Street, Station Road, Church Lane, "
    "Elm Street, Lake Avenue, Mill Road"
)
THINGS = _list(
    "order, package, parcel, booking, reservation, appointment, account, invoice, refund, "
    "ticket, subscription, delivery, payment, flight, room, table, prescription, password, "
    "request, claim, card, contract, policy, bill, shipment, replacement, receipt, message, "
    "call, meeting, report, warranty, router, phone, laptop, battery, printer, screen, headset, "
    "keyboard, charger, software"
)
SERVICES = _list(
    "haircut, dental cleaning, check up, eye exam, massage, car service, oil change, tire "
    "rotation, consultation, vaccination, blood test, physical therapy session, inspection, "
    "viewing, interview, training session, repair visit, installation"
)
FOODS = _list(
    "large pepperoni pizza, chicken salad, veggie burger, bowl of soup, cup of coffee, glass of "
    "water, green tea, cheese sandwich, plate of pasta, grilled salmon, chocolate cake, order "
    "of fries, bottle of orange juice, turkey wrap, side of rice, ham omelette"
)
WEATHER = _list(
    "sunny, cloudy, rainy, windy, foggy, snowy, warm and dry, cold and clear, mild with light "
    "showers, hot and humid"
)
TEAMS = _list(
    "billing, support, sales, shipping, technical, customer care, claims, returns, pharmacy, "
    "front desk, scheduling"
)
ADJECTIVES = _list(
    "great, good, perfect, wonderful, excellent, fantastic, lovely, fine, all right, super"
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class Filler:
    """Fills the blanks of the templates, reproducibly.

    Args:
        rng: where every choice comes from.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        pick = rng.choice
        self.blanks: dict[str, Callable[[], str]] = {
            "first": lambda: pick(FIRST_NAMES),
            "last": lambda: pick(LAST_NAMES),
            "name": lambda: f"{pick(FIRST_NAMES)} {pick(LAST_NAMES)}",
            "title": lambda: pick(["Mister", "Missus", "Doctor", "Miss", "Professor"]),
            "day": lambda: pick(DAYS),
            "month": lambda: pick(MONTHS),
            "date": self._date,
            "time": self._time,
            "city": lambda: pick(CITIES),
            "street": lambda: f"{num2words(rng.randint(1, 300))} {pick(STREETS)}",
            "thing": lambda: pick(THINGS),
            "service": lambda: pick(SERVICES),
            "food": lambda: pick(FOODS),
            "weather": lambda: pick(WEATHER),
            "team": lambda: pick(TEAMS),
            "nice": lambda: pick(ADJECTIVES),
            "few": lambda: num2words(rng.randint(2, 12)),
            "number": lambda: num2words(
                int(10 ** rng.uniform(0, 4)) if rng.random() < 0.8 else rng.randint(1000, 999999)
            ),
            "ordinal": lambda: num2words(rng.randint(1, 31), to="ordinal"),
            "year": lambda: num2words(rng.randint(1950, 2035), to="year"),
            "money": self._money,
            "percent": lambda: f"{num2words(rng.randint(1, 100))} percent",
            "degrees": lambda: f"{num2words(rng.randint(1, 40))} degrees",
            "digits": lambda: self._digits(rng.randint(3, 6)),
            "phone": lambda: ", ".join(self._digits(n) for n in (3, 3, 4)),
            "code": lambda: " ".join(
                pick(LETTERS) if rng.random() < 0.4 else pick(DIGITS)
                for _ in range(rng.randint(3, 6))
            ),
            "decimal": lambda: num2words(round(rng.uniform(0, 100), 1)),
            "duration": self._duration,
            "email": lambda: (
                f"{pick(FIRST_NAMES).lower()} dot {pick(LAST_NAMES).lower()} at example dot com"
            ),
        }

    def _digits(self, count: int) -> str:
        return " ".join(self.rng.choice(DIGITS) for _ in range(count))

    def _date(self) -> str:
        day = num2words(self.rng.randint(1, 31), to="ordinal")
        month = self.rng.choice(MONTHS)
        return self.rng.choice(
            [
                f"{month} {day}",
                f"the {day} of {month}",
                f"{self.rng.choice(DAYS)}, {month} {day}",
                f"{month} {day}, {num2words(self.rng.randint(1990, 2030), to='year')}",
            ]
        )

    def _time(self) -> str:
        hour = num2words(self.rng.randint(1, 12))
        minute = self.rng.choice(
            ["", "", "fifteen", "thirty", "forty-five", "ten", "twenty", "oh five", "fifty"]
        )
        half = self.rng.choice(
            ["", "", " a m", " p m", " in the morning", " in the afternoon", " o'clock"]
        )
        if half == " o'clock":
            return f"{hour} o'clock"
        return f"{hour} {minute}".strip() + half

    def _money(self) -> str:
        dollars = num2words(
            self.rng.randint(1, 120) if self.rng.random() < 0.6 else self.rng.randint(100, 5000)
        )
        cents = self.rng.choice(["", "", "fifty", "ninety-nine", "twenty-five", "ninety-five"])
        unit = self.rng.choice(["dollars", "dollars", "euros", "pounds"])
        if not cents:
            return f"{dollars} {unit}"
        return f"{dollars} {unit} and {cents} {'pence' if unit == 'pounds' else 'cents'}"

    def _duration(self) -> str:
        count = self.rng.randint(2, 48)
        unit = self.rng.choice(["minutes", "hours", "days", "weeks", "business days", "seconds"])
        return f"{num2words(count)} {unit}"

    def fill(self, template: str) -> str:
        """A template with each ``{blank}`` filled."""
        return re.sub(r"\{(\w+)\}", lambda m: self.blanks[m.group(1)](), template)


def word_lists(words: list[str], rng: random.Random) -> list[str]:
    """Every word once, two to five in an utterance, as a list or as one phrase."""
    rng.shuffle(words)
    lines, rest = [], words
    while rest:
        count = rng.choice([2, 3, 3, 4, 4, 5])
        line = rng.choice([", ", " ", " "]).join(rest[:count])
        if rng.random() < 0.5:
            line = line[0].upper() + line[1:]
        lines.append(line + rng.choice([".", ".", ".", "?", "!"]))
        rest = rest[count:]
    return lines


def fragment(sentence: str, rng: random.Random) -> str:
    """One to five neighbouring words of a sentence, as an utterance of their own."""
    words = sentence.split()
    count = min(len(words), rng.choice([1, 1, 2, 2, 3, 3, 4, 5]))
    start = rng.randint(0, len(words) - count)
    piece = " ".join(words[start : start + count]).strip(" ,.?!'-")
    if not piece:
        return ""
    if rng.random() < 0.7:
        piece = piece[0].upper() + piece[1:]
    return piece + rng.choice([".", ".", ".", ".", "?", "!", ","])


def build(
    work: Path, seed: int = 0, sentences: int = 26000, agents: int = 14000, fragments: int = 16000
) -> None:
    """Write ``text.jsonl`` (shuffled training lines) and ``held_out.json`` into ``work``.

    The last part of the lines is there for its words: all of WordNet's other examples, more of its
    definitions, and lists of the words that no other line has. A word that the model has never read
    is often read wrong.
    """
    rng = random.Random(seed)
    templates = (Path(__file__).parent / "templates.txt").read_text().splitlines()
    templates = [line for line in templates if line and not line.startswith("#")]
    filler = Filler(rng)
    natural = wordnet.sentences()
    rng.shuffle(natural)

    held = {
        "wordnet": [s for s in natural[:400] if 20 <= len(s) <= 110][:120],
        "agents": [filler.fill(rng.choice(templates)) for _ in range(50)],
        "hand-written": list(HAND_WRITTEN),
    }
    secret = {s.lower() for group in held.values() for s in group}
    natural = natural[400:]
    spoken: list[str] = []
    while len(spoken) < agents:
        line = filler.fill(rng.choice(templates))
        if rng.random() < 0.25:
            line += " " + filler.fill(rng.choice(templates))
        if len(line) <= 190 and line.lower() not in secret:
            spoken.append(wordnet.clean(line))
    glosses = wordnet.glosses()
    rng.shuffle(glosses)
    lines = [("wordnet", s) for s in natural[:sentences]]
    lines += [("agents", s) for s in spoken]
    lines += [("gloss", s) for s in glosses[:6000]]
    pool = natural + spoken + spoken
    words = sorted({w.lower() for s in natural for w in re.findall(r"[A-Za-z']{2,}", s)})
    for _ in range(fragments):
        piece = fragment(rng.choice(pool), rng)
        if piece:
            lines.append(("fragment", piece))
    lines += [
        ("word", w.strip("'").capitalize() + ".") for w in rng.sample(words, 6000) if w.strip("'")
    ]
    lines += [
        ("word", w + rng.choice([".", "!", "?", ","]))
        for w in [
            "Hi",
            "Hello",
            "Yes",
            "No",
            "Okay",
            "Sure",
            "Thanks",
            "Right",
            "Hey",
            "Sorry",
            "Great",
            "Goodbye",
            "Welcome",
            "Certainly",
        ]
        for _ in range(4)
    ]
    rng.shuffle(lines)
    wide = [("wordnet", s) for s in natural[sentences:]]
    wide += [("gloss", s) for s in glosses[6000:18000]]
    read = {w for _, line in lines + wide for w in re.findall(r"[a-z]+", line.lower())}
    fresh = sorted(wordnet.words() - read)
    wide += [("list", line) for _ in range(2) for line in word_lists(fresh, rng)]
    rng.shuffle(wide)
    lines += wide
    work.mkdir(parents=True, exist_ok=True)
    (work / "held_out.json").write_text(json.dumps(held, indent=1))
    with open(work / "text.jsonl", "w") as out:
        for kind, line in lines:
            out.write(json.dumps([kind, line]) + "\n")
    count: dict[str, int] = {}
    for kind, _ in lines:
        count[kind] = count.get(kind, 0) + 1
    print(
        f"{len(lines)} lines {count}; held out {sum(map(len, held.values()))}; templates"
        f" {len(templates)}"
    )
