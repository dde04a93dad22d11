"""Which findings a text affirms and which it negates.

A small set of rules in the manner of NegEx (Chapman et al., J Biomed Inform 34, 2001): a word of
negation reaches forward over the findings of its clause until a word that ends it; a few words
negate what stands before them. Questions, also those that have lost their mark, and what relatives
have say nothing of the patient and are left out. What the rules cannot see: docs/clinical.md.
"""

import re

# Names that mean the same stand on one line; the first one names the finding.
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
