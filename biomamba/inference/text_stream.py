"""Turn ids that come one by one into text that can be shown at once.

A token of a byte-level tokenizer can end inside a character, and a stop string can begin inside
one token and end in a later one. What may still change is held back until it is certain.
"""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a decoder puts in the place of a character that is cut off


class TextStream:
    """The text of one continuation.

    Args:
        decode: From ids to text.
        stop: Texts that end the continuation; they do not belong to it.
        before: Last ids of the prompt: some tokenizers write a token otherwise behind others.

    Raises:
        ValueError: A stop string is empty.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str] = (),
        before: Sequence[int] = (),
    ) -> None:
        if not all(stop):
            raise ValueError("stop: an empty text would end every continuation at once")
        self._decode = decode
        self._stop = tuple(stop)
        self._before, self._ids = list(before), list[int]()
        self._written = 0  # characters of the text of _ids that were passed on
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Add an id and return the text that is certain now; empty if none is."""
        self._ids.append(token)
        text = self._text()
        is_complete = not text.endswith(_INCOMPLETE)
        certain = text if is_complete else text[:-1]
        new = certain[self._written :]
        self._written = len(certain)
        if is_complete:
            self._before, self._ids, self._written = self._ids, [], 0
        return self._until_stop(new)

    def finish(self) -> str:
        """Return what was held back, at the end of the continuation."""
        if self.is_stopped:
            return ""
        rest = self._until_stop(self._text()[self._written :])
        if not self.is_stopped:
            rest, self._held = rest + self._held, ""
        self._before, self._ids, self._written = self._ids, [], 0
        return rest

    def _text(self) -> str:
        """Return the text of the ids not yet complete."""
        return self._decode(self._before + self._ids)[len(self._decode(self._before)) :]

    def _until_stop(self, new: str) -> str:
        text = self._held + new
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of the text with which the stop string begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
