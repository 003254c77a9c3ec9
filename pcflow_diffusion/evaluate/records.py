"""Records of which a field is given: JSON whose values can be right or wrong.

A record is a city with its telephone code, state and zip code. The prompt gives a state, in which
there are several cities, or a telephone code, which is that of one; the answer is the record. A
rule sees to it that keys, cities, states and digits stand where they should. That the code is the
city's it does not say: that must come from whoever draws.

Legend: N rows, P tokens of a prompt, T tokens of an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow import Automaton
from pcflow_diffusion.models import PieceTokenizer
from pcflow_diffusion.models.text import REPLACEMENT

PROMPT, ANSWER, BLOCK = 4, 40, 20  # P, T, and tokens of a block
END = "\n"
FIELDS = ("city", "phone", "state", "zip")


class City(NamedTuple):
    """A record, field by field in the order of its JSON."""

    city: str
    phone: str
    state: str
    zip: str

    def json(self) -> str:
        """As it is written.

        Examples:
            >>> City("Akron", "330", "OH", "443").json()
            '{"city":"Akron","phone":"330","state":"OH","zip":"443"}'
        """
        return json.dumps(dict(zip(FIELDS, self, strict=True)), separators=(",", ":"))


TABLE = """
CA: Los Angeles 213 900, San Diego 619 921, San Jose 408 951, Fresno 559 937, Oakland 510 946
FL: Miami 305 331, Tampa 813 336, Orlando 407 328, Jacksonville 904 322, Tallahassee 850 323
IL: Chicago 312 606, Springfield 217 627, Peoria 309 616, Rockford 815 611
MA: Boston 617 021, Worcester 508 016, Springfield 413 011, Lowell 978 018
MO: Saint Louis 314 631, Kansas City 816 641, Springfield 417 658, Columbia 573 652
NY: New York 212 100, Buffalo 716 142, Rochester 585 146, Albany 518 122, Syracuse 315 132
OH: Cleveland 216 441, Columbus 614 432, Cincinnati 513 452, Toledo 419 436, Akron 330 443
PA: Philadelphia 215 191, Pittsburgh 412 152, Scranton 570 185, Harrisburg 717 171, Erie 814 165
TX: Houston 713 770, Dallas 214 752, Austin 512 787, San Antonio 210 782, El Paso 915 799
WA: Seattle 206 981, Tacoma 253 984, Spokane 509 992, Olympia 360 985
"""


def _read(table: str) -> Iterator[City]:
    for line in table.strip().splitlines():
        state, _, rest = line.partition(": ")
        for city in rest.split(", "):
            name, phone, code = city.rsplit(maxsplit=2)
            yield City(name, phone, state, code)


CITIES = tuple(_read(TABLE))
NAMES, STATES = (sorted({one[field] for one in CITIES}) for field in (0, 2))
PATTERN = (
    rf'\{{"city":"({"|".join(NAMES)})","phone":"[2-9]\d\d",'
    rf'"state":"({"|".join(STATES)})","zip":"\d\d\d"\}}'
)
"""What the rule says, for those who read regular expressions."""


@cache
def tokenizer() -> PieceTokenizer:
    """Words, digits and marks.

    Examples:
        >>> pieces = tokenizer()
        >>> pieces.decode(pieces.encode(CITIES[0].json())) == CITIES[0].json()
        True
    """
    words = {word for name in NAMES for word in re.findall(" ?[^ ]+", name)}
    return PieceTokenizer(
        [REPLACEMENT, END, " ", *'{}":,0123456789', *FIELDS, *STATES, *sorted(words)]
    )


def rule() -> Automaton:
    """The automaton of `PATTERN` and of ends behind it."""
    words = tokenizer()

    def said(text: str) -> list[int]:
        found: list[int] = words.encode(text).tolist()
        return found

    digits = set(said("0123456789"))
    code, phone = [digits] * 3, [digits - set(said("01")), digits, digits]
    city, state = (Automaton.options(map(said, some)) for some in (NAMES, STATES))
    parts: list[int | set[int] | Automaton]
    parts = [*said('{"city":"'), city, *said('","phone":"'), *phone, *said('","state":"'), state]
    parts += [*said('","zip":"'), *code, *said('"}')]
    return Automaton.template(parts, words.vocabulary_size).padded(int(end()))


def rows(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Prompts and answers [N, P + T]: of any city, given its state or its telephone code.

    Examples:
        >>> tokenizer().decode(rows(1, torch.Generator().manual_seed(0))[0]).strip()
        '509:{"city":"Spokane","phone":"509","state":"WA","zip":"992"}'
    """
    which = torch.randint(2 * len(CITIES), (count,), generator=generator).tolist()
    return torch.stack([_row(CITIES[i // 2], ("phone", "state")[i % 2]) for i in which])


def _row(city: City, given: str) -> Tensor:
    """Tokens [P + T], with spaces before the prompt and ends behind the answer."""
    words = tokenizer()
    prompt, answer = words.encode(getattr(city, given) + ":"), words.encode(city.json())
    before, behind = PROMPT - len(prompt), ANSWER - len(answer)
    return torch.cat([words.encode(" ").expand(before), prompt, answer, end().expand(behind)])


def end() -> Tensor:
    """What stands behind an answer, [1]."""
    return tokenizer().encode(END)


def read(answer: Tensor) -> City | None:
    """The record that an answer [T] is, if it is one that the rule allows."""
    found = re.fullmatch(f"({PATTERN}){END}*", tokenizer().decode(answer))
    return None if found is None else City(**json.loads(found[1]))


def are_valid(answers: Tensor) -> Tensor:
    """Which answers [N, T] are JSON as the rule wants it, bool [N]."""
    return torch.tensor([read(answer) is not None for answer in answers])


def share_right(prompts: Tensor, answers: Tensor) -> Tensor:
    """Which share of its values every answer [N, T] has in common with a record that is asked for.

    Of the cities that agree with the prompt [N, P] it is the one that the answer is nearest to.

    Examples:
        >>> text = rows(2, torch.Generator().manual_seed(0))
        >>> share_right(text[:, :PROMPT], text[:, PROMPT:])
        tensor([1., 1.])
    """
    asked = [tokenizer().decode(prompt).strip(" :") for prompt in prompts]
    return torch.tensor([_share(*pair) for pair in zip(asked, map(read, answers), strict=True)])


def _share(asked: str, said: City | None) -> float:
    if said is None:
        return 0.0
    wanted = [city for city in CITIES if asked in (city.phone, city.state)]
    agree = (sum(a == b for a, b in zip(said, city, strict=True)) for city in wanted)
    return max(agree) / len(said)
