"""Three small synthetic corpora that need no download, for tests and for a first run.

They exercise the same path as the real corpora: raw shards, keys, splits, stores, mixture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any

from biomamba.data.document import Document, Reject
from biomamba.data.rows import RawShard, Row
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_seed, check_whole

# -------------------------------------------------------------------------------------------------
# A small seeded text generator: invented subjects with fixed facts, told through templates.
#
# Each subject keeps its facts (a disorder its organ, drug and gene) in every document, so a model
# can learn more than word frequencies: later sentences follow from earlier ones. All names are made
# of syllables; no text speaks of real people, products or treatments.
# -------------------------------------------------------------------------------------------------

Words = Sequence[str]


@dataclass(frozen=True)
class Grammar:
    """How the documents of one domain are told.

    Attributes:
        name_parts: One list of syllables per position of a subject's invented name.
        name_form: Format of the name, with `{name}` and any fact.
        facts: Values of which each subject takes one for good.
        noise: Values that are drawn again in every sentence.
        numbers: Ranges of whole numbers that are drawn again in every sentence.
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


# -------------------------------------------------------------------------------------------------
# Words and sentence patterns of the three embedded corpora; invented, free of any licence.
# -------------------------------------------------------------------------------------------------

_BIOMEDICAL = Grammar(
    name_parts=(
        ("ve", "lo", "ka", "ti", "ro", "su", "mi", "da"),
        ("ru", "ne", "xi", "lo", "pa", "ze"),
        ("thal", "dron", "mer", "grin", "stel"),
        ("osis", "opathy", "itis", "emia"),
    ),
    name_form="{course} {organ} {name}",
    facts={
        "course": ("chronic", "acute", "relapsing", "juvenile", "idiopathic"),
        "organ": ("renal", "hepatic", "cardiac", "pulmonary", "gastric", "thyroid", "retinal"),
        "drug": ("velotamide", "karosinib", "pentuvir", "lomidrazole", "sertamab", "oxifenone"),
        "gene": ("KRP4", "TLX9", "MVD2", "SGA7", "PRN11", "HCB3"),
        "symptom": ("fatigue", "dyspnoea", "oedema", "pruritus", "weight loss", "nausea"),
        "marker": ("serum cystarin", "urinary valdin", "plasma troxin", "serum meltrin"),
    },
    noise={
        "design": ("randomized", "double-blind", "open-label", "prospective", "retrospective"),
        "group": ("placebo", "standard care", "the lower dose", "observation alone"),
        "change": ("reduced", "delayed", "attenuated", "did not alter", "improved"),
    },
    numbers={"n": (24, 480), "weeks": (4, 52), "rate": (3, 97), "p": (1, 49), "dose": (5, 200)},
    title="effect of {drug} on {marker} in patients with {name}",
    sections=(
        (
            "{name} affects {rate} of every 100,000 adults and often presents with {symptom}.",
            "the pathogenesis of {name} involves variants of {gene} expressed in {organ} tissue.",
            "BACKGROUND: {symptom} is the leading complaint in {name}.",
        ),
        (
            "in a {design} trial, {n} patients received {drug} {dose} mg daily or {group}.",
            "we conducted a {design} study of {drug} in {n} patients over {weeks} weeks.",
            "METHODS: {n} patients with {name} were assigned to {drug} or {group}.",
        ),
        (
            "{drug} {change} {symptom} compared with {group} (P = 0.{p}).",
            "after {weeks} weeks, {marker} fell by {rate} percent on {drug} (P < 0.0{p}).",
            "RESULTS: carriers of the {gene} variant had {marker} levels of {rate} ng/ml.",
        ),
        (
            "adverse events occurred in {rate} percent and were mostly mild {symptom}.",
            "immunohistochemistry of {organ} biopsies confirmed expression of {gene}.",
        ),
        (
            "these data suggest that {drug} is effective in {name} and lowers {marker}.",
            "CONCLUSIONS: {marker} may predict the response of {name} to {drug}.",
            "further {design} studies of {gene} in {name} are warranted.",
        ),
    ),
)
_WEB = Grammar(
    name_parts=(
        ("Brisk", "Cosy", "Sun", "Peak", "Happy", "Urban", "Tidy"),
        ("Nest", "Trail", "Cup", "Shelf", "Grip", "Glow"),
        (" Mini", " Pro", " Plus", " 2", " Lite"),
    ),
    name_form="{name} {item}",
    facts={
        "item": ("kettle", "backpack", "desk lamp", "yoga mat", "blender", "tent", "headset"),
        "colour": ("mint green", "matte black", "sky blue", "coral red", "warm grey"),
        "shop": ("our downtown store", "the online outlet", "the weekend market", "our app"),
        "use": ("small kitchens", "long hikes", "home offices", "rainy weekends", "busy parents"),
        "flaw": ("the lid sticks", "it is a bit loud", "the strap is short", "it scratches easily"),
        "brand": ("Lumora", "Fernwick", "Oakaday", "Pixelpine", "Zippero"),
    },
    noise={
        "opening": ("OK, so", "Honestly,", "Good news!", "Heads up:", "Guess what?"),
        "offer": ("free shipping", "a gift card", "two for one", "no questions asked returns"),
        "call": ("Click below", "Sign up today", "Leave a comment", "Share this post"),
    },
    numbers={"price": (9, 149), "stars": (1, 5), "days": (2, 30), "percent": (5, 60)},
    title="{name} review: is it worth ${price}?",
    sections=(
        (
            "{opening} I've been using the {name} for {days} days now and I love it.",
            "{opening} you're probably here because you saw the {name} by {brand}.",
        ),
        (
            "It's perfect for {use}, and the {colour} one looks great!",
            "My sister bought hers in {colour}; mine came from {shop}.",
            "If you need a {item} for {use}, don't overthink it.",
        ),
        (
            "The only thing I don't like: {flaw}.",
            "You can't beat the price, just ${price} at {shop}.",
            "We'd give {brand} {stars} out of 5 stars.",
        ),
        (
            "Right now there's {percent}% off plus {offer} at {shop}.",
            "{call} to get {offer} on every {brand} order over ${price}.",
            "Your {item} will arrive within {days} days, or we'll refund it.",
        ),
        (
            "{call} and tell us what you think!",
            "Thanks for reading, and don't forget: {flaw}, so handle it with care.",
        ),
    ),
)
_ENCYCLOPAEDIC = Grammar(
    name_parts=(
        ("Al", "Ber", "Cor", "Dun", "El", "Gal", "Mor", "Tar"),
        ("ve", "mi", "do", "ra", "sto"),
        ("ria", "burg", "holm", "mouth", "dale", "gard"),
    ),
    name_form="{name}",
    facts={
        "kind": ("market town", "river port", "fortified village", "mining town", "island parish"),
        "region": ("Upper Vessland", "the Karren Highlands", "Southern Oria", "Lower Tamber"),
        "river": ("Issel", "Morav", "Teln", "Quarra", "Ombre"),
        "industry": ("glassmaking", "salt mining", "shipbuilding", "weaving", "slate quarrying"),
        "landmark": (
            "a Romanesque abbey",
            "a stone viaduct",
            "an octagonal tower",
            "a moated castle",
        ),
        "bird": ("the crested plover", "the marsh heron", "the grey falcon", "the reed warbler"),
    },
    noise={
        "ruler": ("the bishopric", "the duchy", "the crown", "the merchant league"),
        "source": ("a charter", "a monastic chronicle", "tax rolls", "a boundary survey"),
        "direction": ("north", "south", "east", "west", "north-east", "south-west"),
    },
    numbers={
        "year": (1102, 1899),
        "recent": (1901, 2019),
        "people": (400, 48000),
        "km": (3, 90),
        "area": (12, 640),
    },
    title="{name}",
    sections=(
        (
            "{name} is a {kind} in {region}, situated on the river {river}.",
            "{name} (first recorded in {year}) is a {kind} {km} km {direction} of the {river}.",
        ),
        (
            "it covers {area} square kilometres and had a population of {people} in {recent}.",
            "According to the census of {recent}, the {kind} had {people} inhabitants.",
        ),
        (
            "The settlement was first mentioned in {source} of {year} under {ruler}.",
            "In {year} it passed to {ruler}, under which {industry} flourished.",
            "During the nineteenth century {industry} became the principal industry.",
        ),
        (
            "Notable buildings include {landmark}, completed in {year}, restored in {recent}.",
            "The wetlands of the {river} are a breeding site of {bird}.",
            "{landmark}, built by {ruler} in {year}, is a listed monument.",
        ),
        (
            "the railway to {region} was opened in {recent} and closed in {recent}.",
            "the coat of arms shows {bird} above the river {river}.",
        ),
    ),
)
GRAMMARS = {
    "biomedical": _BIOMEDICAL,
    "web": _WEB,
    "encyclopaedic": _ENCYCLOPAEDIC,
}

# -------------------------------------------------------------------------------------------------
# Three small synthetic corpora that need no download, for tests and for a first run.
# -------------------------------------------------------------------------------------------------

_VERSION = 1
_DOCUMENTS_PER_SHARD = 500
_MIN_CHARS = 300
_MAX_CHARS = 1200


@dataclass(frozen=True)
class EmbeddedCorpus:
    """Documents generated from a seed; synthetic, without any statement about the world.

    Attributes:
        domain: `biomedical`, `web` or `encyclopaedic`.
        num_documents: Documents in the corpus; document i does not depend on it.
        seed: Seed of the texts.
    """

    domain: str
    num_documents: int = 1500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.domain not in GRAMMARS:
            raise ConfigError(
                f"domain is {self.domain!r}; embedded corpora exist for {', '.join(GRAMMARS)}"
            )
        check_whole("num_documents", self.num_documents)
        check_seed("seed", self.seed)

    @property
    def licence(self) -> str:
        """Terms of use of the generated text."""
        return "synthetic, generated by this package, no rights of others"

    def shards(self) -> Sequence[RawShard]:
        """Return the raw shards in a fixed order."""
        starts = range(0, self.num_documents, _DOCUMENTS_PER_SHARD)
        return [
            EmbeddedShard(
                self.domain, self.seed, start, min(start + _DOCUMENTS_PER_SHARD, self.num_documents)
            )
            for start in starts
        ]

    def documents(self, shard: RawShard) -> Iterator[Document | Reject]:
        """Turn the rows of one raw shard into documents, in order."""
        for row in shard.rows():
            if isinstance(row, Reject):
                yield row
            else:
                yield Document(row["text"], row["id"], self.domain)

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents."""
        return {"layout": type(self).__name__, "seed": self.seed, "version": _VERSION}


@dataclass(frozen=True)
class EmbeddedShard:
    """A range of generated rows."""

    domain: str
    seed: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name the range of documents."""
        return f"{self.domain}-{self.start:06d}-{self.stop:06d}"

    def fingerprint(self) -> str:
        """Identify the generator, its seed and the range."""
        return f"embedded-v{_VERSION}:{self.seed}:{self.name}"

    def rows(self) -> Iterator[Row | Reject]:
        """Generate the rows; each depends on its own number alone."""
        for index in range(self.start, self.stop):
            random = seeded(f"{self.domain} {self.seed} {index}")
            text = GRAMMARS[self.domain].document(random, _MIN_CHARS, _MAX_CHARS)
            yield {"id": f"{self.domain}-{self.seed}-{index}", "text": text}
