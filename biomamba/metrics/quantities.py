"""Numbers and doses that a text holds, in one spelling each."""

import re
from decimal import Decimal

_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_FIGURE = re.compile(rf"(?<![\w.])(?:{_NUMBER})")
# "1." and "2)" before the entries of a list count them; they say nothing of the patient.
_LIST_NUMBER = re.compile(r"^[ \t]*\d{1,2}[.)](?=\s|$)", re.MULTILINE)
_UNITS = {
    "mg": "mg mgs milligram milligrams",
    "mcg": "mcg ug \u00b5g \u03bcg microgram micrograms",
    "g": "g gm gms gram grams",
    "kg": "kg kgs kilogram kilograms",
    "ml": "ml mls cc milliliter milliliters",
    "l": "l liter liters",
    "unit": "u unit units iu",
    "meq": "meq",
    "mmol": "mmol",
    "%": "% percent",
    "mmhg": "mmhg",
    "tablet": "tab tabs tablet tablets",
    "capsule": "cap caps capsule capsules",
    "puff": "puff puffs",
    "drop": "drop drops gtt",
}
_UNIT_OF = {spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings.split()}
_DOSE = re.compile(
    rf"(?<![\w.])({_NUMBER})[ \t-]*({'|'.join(sorted(map(re.escape, _UNIT_OF), key=len)[::-1])})"
    r"(?![^\W\d_])",
    re.IGNORECASE,
)
_SMALL = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    "|sixteen|seventeen|eighteen|nineteen"
)
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_VALUES = {name: value for value, name in enumerate(_SMALL.split("|"))} | {
    name: 10 * value for value, name in enumerate(_TENS.split("|"), start=2)
}
_SCALES = {"hundred": 100, "thousand": 1000}
_NUMBER_WORD = rf"\b(?:{'|'.join([*_VALUES, *_SCALES])})\b"
_SPELLED = re.compile(_NUMBER_WORD)
_RUN = re.compile(rf"{_NUMBER_WORD}(?:(?:[ -]+and)?[ -]+{_NUMBER_WORD})*", re.IGNORECASE)


def numbers_of(text: str, *, spelled: bool) -> list[str]:
    """Return the numbers of a text: 5.0, 05 and 5 are one; those that count a list are left out.

    spelled: Words count too: `twenty six`, `a hundred and five`, `one forty` (140).
    """
    text = _prepared(text, spelled=spelled)
    return [_plain(match[0]) for match in _FIGURE.finditer(text)]


def doses_of(text: str, *, spelled: bool) -> list[tuple[str, str]]:
    """Return the numbers with a unit: `5 mg`, `5.0mg` and `5 milligrams` are one.

    spelled: `five milligrams` is the same one too.
    """
    text = _prepared(text, spelled=spelled)
    return [(_plain(match[1]), _UNIT_OF[match[2].lower()]) for match in _DOSE.finditer(text)]


def _prepared(text: str, *, spelled: bool) -> str:
    text = _LIST_NUMBER.sub(" ", text)
    return in_figures(text) if spelled else text


def _plain(figure: str) -> str:
    return f"{Decimal(figure.replace(',', '')).normalize():f}"


def in_figures(text: str) -> str:
    """Return a text with its number words as figures."""
    return _RUN.sub(lambda match: " ".join(_values(_SPELLED.findall(match[0].lower()))), text)


def _values(run: list[str]) -> list[str]:
    """Return the numbers of a run of number words."""
    found: list[int] = []
    joins_below = 0  # a word of a smaller value goes on with the last number
    for word in run:
        if word in _SCALES:
            scale = _SCALES[word]
            number = found.pop() if found else 1
            # "two thousand five hundred": only what follows the thousands is multiplied
            kept = number - number % 1000 if scale == 100 and number > 1000 else 0
            found.append(kept + max(1, number - kept) * scale)
            joins_below = scale
            continue
        value = _VALUES[word]
        if found and value < joins_below:
            found[-1] += value
        elif found and value >= 20 and 0 < found[-1] < 100:
            found[-1] = found[-1] * 100 + value
        else:
            found.append(value)
        joins_below = 10 if value >= 20 else 0
    return [str(value) for value in found]
