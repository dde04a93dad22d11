"""Words and sentence patterns of the three embedded corpora; invented, free of any licence."""

from biomamba.data.corpora.grammar import Grammar

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
