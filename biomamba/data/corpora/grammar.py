"""A small seeded text generator: invented subjects with fixed facts, told through templates.

Each subject keeps its facts (a disorder its organ, drug and gene) in every document, so a model
can learn more than word frequencies: later sentences follow from earlier ones. All names are made
of syllables; no text speaks of real people, products or treatments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

Words = Sequence[str]


@dataclass(frozen=True)
class Grammar:
    """How the documents of one domain are told.

    Attributes:
        name_parts: One list of syllables per position of a subject's invented name.
        name_form: Format of the name, with `{name}` and any fact.
        facts: Values of which each subject takes one for good.
        noise: Values that are drawn anew in every sentence.
        numbers: Ranges of whole numbers that are drawn anew in every sentence.
        title: Format of the title line.
        sections: Sentence templates; a document goes through the sections in order.
        num_subjects: How many subjects there are.
    """

    name_parts: Sequence[Words]
    name_form: str
    facts: Mapping[str, Words]
    noise: Mapping[str, Words]
    numbers: Mapping[str, tuple[int, int]]
    title: str
    sections: Sequence[Words]
    num_subjects: int = 60

    def subject(self, index: int) -> dict[str, str]:
        """Return the fixed facts of one subject, its name included."""
        random = seeded(f"{self.name_form} {index}")
        facts = {slot: random.choice(values) for slot, values in sorted(self.facts.items())}
        name = "".join(random.choice(part) for part in self.name_parts)
        facts["name"] = self.name_form.format(name=name, **facts)
        return facts

    def document(self, random: Random, min_chars: int, max_chars: int) -> str:
        """Tell one document of a length between the bounds, in characters."""
        facts = self.subject(random.randrange(self.num_subjects))
        target_chars = random.randint(min_chars, max_chars)
        text = self._sentence(self.title, facts, random) + "\n\n"
        section = 0
        while True:
            templates = self.sections[section % len(self.sections)]
            sentence = self._sentence(random.choice(templates), facts, random)
            longer = text + sentence + " "
            if len(longer.rstrip()) > max_chars:
                return text.rstrip()
            text = longer
            if len(text.rstrip()) >= target_chars:
                return text.rstrip()
            section += 1

    def _sentence(self, template: str, facts: Mapping[str, str], random: Random) -> str:
        noise = {slot: random.choice(values) for slot, values in sorted(self.noise.items())}
        drawn = {slot: str(random.randint(*span)) for slot, span in sorted(self.numbers.items())}
        sentence = template.format(**facts, **noise, **drawn)
        return sentence[0].upper() + sentence[1:]


def seeded(name: str) -> Random:
    """Return a generator seeded by a name, equal on every platform."""
    return Random(int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little"))
