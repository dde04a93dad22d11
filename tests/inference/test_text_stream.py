from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from biomamba.data.tokenizer import Tokenizer
from biomamba.inference.text_generation import TextStream

BYTES = Tokenizer.byte_tokenizer()
TEXT = "na\u00efve \u20ac5 \U0001f9ec end"  # characters of one, two, three and four bytes


def pieces(text: str, stop: Sequence[str] = ()) -> list[str]:
    """Return what each byte of the text and the end add, until a stop string."""
    stream, found = TextStream(BYTES.decode, stop), []
    for token in BYTES.encode(text):
        found.append(stream.push(token))
        if stream.is_stopped:
            break
    return [*found, stream.finish()]


def test_pieces_add_up_to_the_text() -> None:
    assert "".join(pieces(TEXT)) == TEXT


def test_a_character_comes_with_its_last_byte() -> None:
    assert pieces("a\u20acb") == ["a", "", "", "\u20ac", "b", ""]
    assert "\ufffd" not in "".join(pieces(TEXT)[:-1])


def test_bytes_that_are_no_text_are_shown_at_the_end() -> None:
    stream, euro = TextStream(BYTES.decode), BYTES.encode("\u20ac")

    assert [stream.push(token) for token in [euro[0], euro[0], euro[1]]] == ["", "\ufffd", ""]
    assert stream.finish() == "\ufffd"


def test_a_replacement_character_in_the_text_is_kept() -> None:
    assert "".join(pieces("a\ufffdb")) == "a\ufffdb"
    assert "".join(pieces("a\ufffd")) == "a\ufffd"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one\n\ntwo", ["\n\n"], "one"),  # a token border inside the stop string
        ("one\ntwo", ["\n\n"], "one\ntwo"),
        ("one\n", ["\n\n"], "one\n"),  # what was held back comes at the end
        ("aab", ["ab"], "a"),
        ("aaab", ["aab"], "a"),  # the beginning repeats inside
        ("abc", ["bc", "b"], "a"),
        ("abcd", ["cd", "bcd"], "a"),  # the one that starts first
        ("stop", ["stop"], ""),
        ("x \u20acy", ["\u20ac"], "x "),
        ("abab", ["abc"], "abab"),
    ],
)
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str], expected: str) -> None:
    found = pieces(text, stop)

    assert "".join(found) == expected


@pytest.mark.parametrize("stop", ["END", "EN", "E"])
def test_no_piece_shows_the_beginning_of_a_stop_string_that_comes(stop: str) -> None:
    shown = ""
    for piece in pieces("an E, an EN, END", [stop]):
        shown += piece
        assert stop not in shown
    assert shown == "an E, an EN, END".split(stop)[0]


def test_stop_string_inside_one_token() -> None:
    stream = TextStream(lambda ids: "".join(("so", "me. No", " more")[i] for i in ids), ["."])

    assert [stream.push(0), stream.push(1)] == ["so", "me"]
    assert stream.is_stopped
    assert stream.finish() == ""


def test_words_keep_their_space_with_a_tokenizer_that_marks_it() -> None:
    """Decoding drops the space of the first token, so what is before a token matters."""
    vocab = {"<unk>": 0, "\u2581one": 1, "\u2581two": 2, "\u2581three": 3}
    backend = Backend(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    stream = TextStream(backend.decode, before=[1])

    assert [stream.push(2), stream.push(3)] == [" two", " three"]


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop: an empty text"):
        TextStream(BYTES.decode, ["a", ""])
