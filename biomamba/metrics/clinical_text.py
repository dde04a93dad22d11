"""Clinical texts against their input: findings, negations, numbers and doses, support."""

import re
from collections.abc import Collection, Sequence
from decimal import Decimal

import numpy as np

from biomamba.metrics.measure import Measure, mean, proportion, ratio
from biomamba.metrics.overlap import grams_of, longest_shared_run, words_of

# -------------------------------------------------------------------------------------------------
# Which findings a text affirms and which it negates.
#
# A small set of rules in the manner of NegEx (Chapman et al., J Biomed Inform 34, 2001): a word of
# negation reaches forward over the findings of its clause until a word that ends it; a few words
# negate what is before them. Questions, also those that have lost their mark, and what relatives
# have say nothing of the patient and are left out. What the rules cannot see: docs/clinical.md.
# -------------------------------------------------------------------------------------------------

# Names that mean the same are on one line; the first one names the finding.
_FINDINGS = """
fever|fevers|febrile
chills|chill
cough|coughing
chest pain|chest pains
shortness of breath|dyspnea|sob|short of breath
nausea|nauseous
vomiting|emesis
diarrhea
constipation
abdominal pain|belly pain|stomach pain
headache|headaches
dizziness|dizzy|lightheadedness|lightheaded
syncope|fainting
palpitations|palpitation
edema|swelling
rash|rashes
fatigue|tiredness
weakness
numbness
tingling
weight loss
weight gain
night sweats
dysuria|burning with urination
hematuria|blood in urine
bleeding
melena
hematochezia|blood in stool
jaundice
wheezing|wheezes
hemoptysis
sore throat
back pain
joint pain
seizure|seizures
diabetes|diabetic
hypertension|high blood pressure
pneumonia
fracture|fractures
pneumothorax
pleural effusion|pleural effusions
infection
sepsis
malignancy
metastasis|metastases
stroke
myocardial infarction|heart attack
heart failure
atrial fibrillation
pulmonary embolism
deep vein thrombosis|dvt
hemorrhage
murmur|murmurs
tenderness
smoking|tobacco use
allergies|allergy
"""
_NAME_OF = {
    spelling: line.split("|")[0]
    for line in _FINDINGS.strip().splitlines()
    for spelling in line.split("|")
}
_BEFORE = (
    "no evidence of|no signs of|no sign of|negative for|absence of|free of|denies|denied|denying"
    r"|deny|without|no|nor|neither|(?:not|never|\w*n['\u2019]t)(?: had)?"
)
_ASKS = "any|have you(?: had)?|do you|did you|are you|how about|what about"
_AFTER = "absent|negative|denied|ruled out|not present|not seen|has resolved|resolved"
_ENDS = (
    "but|however|except|although|though|besides|presents|presented|reports|reported|admits"
    "|complains|complained|endorses|endorsed|positive for|has|had|with|because|secondary to|due to"
)
_TOKEN = re.compile(
    rf"(?P<finding>\b(?:{'|'.join(sorted(map(re.escape, _NAME_OF), key=len)[::-1])})\b)"
    rf"|(?P<before>\b(?:{_BEFORE})\b)|(?P<asks>\b(?:{_ASKS})\b)"
    rf"|(?P<after>\b(?:{_AFTER})\b)|(?P<end>\b(?:{_ENDS})\b|[;:])",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]?(?:(?<=\d\.)\d[^.!?\n]*[.!?\n]?)*")
_OTHERS = re.compile(
    r"\b(?:family history|mother|father|brother|sister|son|daughter|aunt|uncle|grand\w+)\b",
    re.IGNORECASE,
)


def statuses_of(text: str) -> dict[str, bool]:
    """Return for each finding told one way only whether it is affirmed."""
    seen: dict[str, set[bool]] = {}
    for match in _SENTENCE.finditer(text):
        sentence = match[0]
        if sentence.endswith("?") or _OTHERS.search(sentence):
            continue
        for name, is_affirmed in _mentions(sentence):
            seen.setdefault(name, set()).add(is_affirmed)
    return {name: ways.pop() for name, ways in seen.items() if len(ways) == 1}


def _mentions(sentence: str) -> list[tuple[str, bool]]:
    """Return the findings of a sentence in order, each with whether it is affirmed."""
    found: list[tuple[str, bool]] = []
    is_negated = is_asked = False
    num_before_clause = 0
    for token in _TOKEN.finditer(sentence):
        if token.lastgroup == "finding":
            if is_asked and not is_negated:
                continue
            found.append((_NAME_OF[token[0].lower()], not is_negated))
        elif token.lastgroup == "before":
            is_negated = True
        elif token.lastgroup == "asks":
            is_asked = True
        elif token.lastgroup == "after":
            clause = found[num_before_clause:]
            found[num_before_clause:] = [(name, False) for name, _ in clause]
        elif token[0] != ":":  # "Fever: absent" is one clause
            is_negated = is_asked = False
            num_before_clause = len(found)
    return found


# -------------------------------------------------------------------------------------------------
# Numbers and doses that a text holds, in one spelling each.
# -------------------------------------------------------------------------------------------------

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
    joins_below = 0  # a word of a smaller value continues with the last number
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


# -------------------------------------------------------------------------------------------------
# What is right or wrong in a clinical text that was written from another one.
#
# Rules over words, numbers and a list of findings; no model and no service is asked. Each figure
# says what it saw, not that a text is safe: docs/clinical.md lists what the rules cannot see.
# -------------------------------------------------------------------------------------------------

COPY_WORDS = 4


def section_coverage(
    found: Sequence[Collection[str]], wanted: Sequence[Collection[str]]
) -> Measure:
    """Return the share of the headings of a reference that its output has, as a mean over items.

    Items whose reference has no heading are left out.
    """
    shares = np.array(
        [
            len(set(names) & set(seen)) / len(set(names)) if names else 0.0
            for seen, names in zip(found, wanted, strict=True)
        ]
    )
    has_headings = np.array([float(bool(names)) for names in wanted])
    return ratio("section_coverage", shares, has_headings)


def unsupported_numbers(outputs: Sequence[str], sources: Sequence[str]) -> Measure:
    """Return the share of the numbers written that the source does not hold, spelled or not."""
    written = [numbers_of(output, spelled=False) for output in outputs]
    known = [set(numbers_of(source, spelled=True)) for source in sources]
    return _unsupported("unsupported_number_ratio", written, known)


def unsupported_doses(outputs: Sequence[str], sources: Sequence[str]) -> Measure:
    """Return the share of the numbers with a unit whose number and unit the source does not hold.

    A source that gives the number without the unit does not support a dose.
    """
    written = [doses_of(output, spelled=False) for output in outputs]
    known = [set(doses_of(source, spelled=True)) for source in sources]
    return _unsupported("unsupported_dose_ratio", written, known)


def _unsupported(
    name: str, written: Sequence[Sequence[object]], known: Sequence[Collection[object]]
) -> Measure:
    pairs = zip(written, known, strict=True)
    unsupported = [sum(value not in values for value in found) for found, values in pairs]
    return ratio(
        name,
        np.array(unsupported, dtype=np.float64),
        np.array([len(found) for found in written], dtype=np.float64),
        higher_is_better=False,
    )


def negation_flips(outputs: Sequence[str], sources: Sequence[str]) -> Measure:
    """Return the share of the findings told in both texts that one negates and the other affirms.

    A finding that a text both negates and affirms is left out.
    """
    flips, shared = [], []
    for output, source in zip(outputs, sources, strict=True):
        written, known = statuses_of(output), statuses_of(source)
        both = written.keys() & known.keys()
        flips.append(float(sum(written[name] != known[name] for name in both)))
        shared.append(float(len(both)))
    return ratio("negation_flip_ratio", np.array(flips), np.array(shared), higher_is_better=False)


def copying(outputs: Sequence[str], sources: Sequence[str]) -> list[Measure]:
    """Return the mean share of runs of 4 words that are in the source, and its longest run."""
    shares, runs = [], []
    for output, source in zip(outputs, sources, strict=True):
        written, known = words_of(output), words_of(source)
        grams, known_grams = grams_of(written, COPY_WORDS), set(grams_of(known, COPY_WORDS))
        copied = sum(gram in known_grams for gram in grams)
        shares.append(copied / len(grams) if grams else 0.0)
        runs.append(float(longest_shared_run(written, known)))
    return [
        mean("copied_4gram_ratio", np.array(shares), higher_is_better=None),
        mean("longest_copied_words", np.array(runs), higher_is_better=None),
    ]


def lengths(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[Measure]:
    """Return the mean ratio of words to those of the first reference, and the share left empty."""
    written = np.array([len(words_of(output)) for output in outputs], dtype=np.float64)
    wanted = np.array([max(1, len(words_of(texts[0]))) for texts in references], dtype=np.float64)
    is_empty = np.array([not output.strip() for output in outputs], dtype=np.bool_)
    return [
        mean("length_ratio", written / wanted, higher_is_better=None),
        proportion("empty_output_ratio", is_empty, higher_is_better=False),
    ]
