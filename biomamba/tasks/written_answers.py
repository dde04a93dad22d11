"""What a model wrote, as answers to be compared with references character by character."""

from collections.abc import Sequence

from biomamba.runtime.errors import ConfigError
from biomamba.tasks.prediction import Prediction

CLEANING = ("none", "full_stop")


def check_cleaning(cleaning: str, protocol: str, official: str) -> None:
    """Raise ConfigError unless a cleaning is known, and none in the official protocol."""
    if cleaning not in CLEANING:
        raise ConfigError(f"cleaning is {cleaning!r}; allowed: {', '.join(CLEANING)}")
    if (cleaning == "none") != (protocol == official):
        raise ConfigError(
            f"cleaning is {cleaning} and protocol {protocol!r}: protocol {official} goes with "
            "cleaning none, any other cleaning with a protocol of another name"
        )


def one_line(text: str) -> str:
    """Return a reference as a line to be written; other spaces stay, since they are compared."""
    return " ".join(text.strip().splitlines())


def cleaned(text: str, cleaning: str) -> str:
    """Return a text without space at its ends and, with `full_stop`, without a final full stop."""
    text = text.strip()
    return text.removesuffix(".").rstrip() if cleaning == "full_stop" else text


def candidates_of(prediction: Prediction, cleaning: str) -> Sequence[str]:
    """Return the candidates of a prediction, best first, without empty ones."""
    texts = prediction.candidates or [prediction.text]
    return [text for each in texts if (text := cleaned(each, cleaning))]
