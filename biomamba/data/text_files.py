r"""The one reader of text that users bring: UTF-8, a byte order mark allowed and removed.

Another encoding would not fail: UTF-16 read by chance gives other characters, and the model learns
them. So a file that is not UTF-8 is refused by the name of what it looks like; in a table a single
row that cannot be decoded is a counted reject (biomamba.data.rows). Half of a surrogate pair, as
`"\ud83d"` alone in JSON, is no character and follows the same rule, and so does a JSON object with
the same key twice, of which a parser silently keeps the last, and text with a zero character. A
file with zero bytes at its start is refused.
"""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from biomamba.runtime.errors import DataError

_BOM = codecs.BOM_UTF8
# Those of UTF-32 first: the little-endian one starts with that of UTF-16.
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
HEAD_BYTES = 4096  # what must be known of a file to see its encoding
NOT_UTF8 = "row is not UTF-8"
NOT_UNICODE = "row holds half of a surrogate pair, which is no character"
NOT_JSON = "row is not JSON"
HAS_ZERO = "row holds a zero character, which is no text"
# Of half a surrogate pair and of a zero.
_ESCAPES = ("\\ud", "\\uD", "\\u0000")
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,39}")


class TextFault(ValueError):  # noqa: N818 - a reason to reject, not an error of the program
    """Why a text cannot be used, in words that quote nothing of it."""


def without_mark(head: bytes, name: object) -> bytes:
    """Return the first bytes of a file without the mark of UTF-8.

    Args:
        head: Up to HEAD_BYTES of it.
        name: Of the file, for the message.

    Raises:
        DataError: They are of another encoding, or of no text.
    """
    for mark, encoding in _OTHER_MARKS:
        if head.startswith(mark):
            raise _wrong_encoding(name, encoding)
    if b"\0" in head:
        # Latin letters of UTF-16 have a zero byte each; a binary file has them anywhere.
        even, odd = head[::2].count(0), head[1::2].count(0)
        is_utf16 = max(even, odd) > len(head) // 8 and min(even, odd) < max(even, odd) // 8
        raise _wrong_encoding(name, "UTF-16" if is_utf16 else "binary data")
    return head.removeprefix(_BOM)


def decode_row(raw: bytes) -> str:
    """Return a row as text.

    Raises:
        TextFault: It is not UTF-8, or holds a zero byte.
    """
    if b"\0" in raw:
        raise TextFault(HAS_ZERO)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextFault(NOT_UTF8) from error


def parse_row(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        TextFault: It is not JSON, an object has a key twice, or a text is not valid Unicode or
            holds a zero character.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except TextFault:
        raise
    except (ValueError, RecursionError) as error:
        raise TextFault(NOT_JSON) from error
    # An escape is the only way for half a pair or a zero to get into text that was decoded.
    if "\\u" in text and any(escape in text for escape in _ESCAPES):
        _check_texts(value)
    return value


def check_unicode(text: str, what: str) -> str:
    """Return a text that holds whole characters only.

    Raises:
        DataError: It holds half of a surrogate pair, as an argument of the command line does that
            is not UTF-8; the message names `what` and quotes nothing.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what}: holds what is not UTF-8 at character {error.start + 1}; give it as UTF-8 "
            "(locale, or iconv -f latin1 -t utf-8)"
        ) from None
    return text


def decode_text(raw: bytes, name: object) -> str:
    """Return a whole file or stream as text.

    Raises:
        DataError: It is not UTF-8.
    """
    raw = without_mark(raw[:HEAD_BYTES], name) + raw[HEAD_BYTES:]
    if b"\0" in raw:
        raise _wrong_encoding(name, "binary data")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _wrong_encoding(name, f"not UTF-8 at byte {error.start + 1}, as Latin-1 is") from None


def read_text_file(path: Path) -> str:
    """Return the text of a file.

    Raises:
        DataError: It cannot be read or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_text(raw, path)


def read_json_file(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        DataError: It cannot be read, is not UTF-8 or not JSON, an object has a key twice, or a text
            holds half of a surrogate pair.
    """
    text = read_text_file(path)
    try:
        return parse_row(text)
    except TextFault as error:
        reason = str(error).replace("row", "the file", 1)
        raise DataError(f"{path}: {reason}; fetch the file again") from error


def _wrong_encoding(name: object, found: str) -> DataError:
    remedy = (
        f"iconv -f {found} -t UTF-8" if found.startswith("UTF") else "iconv -f <encoding> -t UTF-8"
    )
    return DataError(f"{name}: must be UTF-8 text, found {found}; convert it ({remedy})")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                # In a damaged file a key may be text of a patient.
                name = f" {key!r}" if _NAME.fullmatch(key) else ""
                raise TextFault(f"row has a key twice{name and ':'}{name}")
            seen.add(key)
    return found


def _check_texts(value: Any) -> None:
    """Raise TextFault if any text in a value holds half of a surrogate pair or a zero."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            pending += [*found.keys(), *found.values()]
        elif isinstance(found, list):
            pending += found
        elif isinstance(found, str):
            if "\0" in found:
                raise TextFault(HAS_ZERO)
            try:
                found.encode("utf-8")
            except UnicodeEncodeError as error:
                raise TextFault(NOT_UNICODE) from error
