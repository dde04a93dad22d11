"""What evaluation asks of a model."""

from collections.abc import Sequence

from biomamba.evaluation.answer_model import ScoreRequest, Written, score_request
from biomamba.tasks.prompt import EncodedPrompt


def test_requests_and_answers_with_equal_content_are_equal() -> None:
    assert ScoreRequest([1], [[2], [3, 4]]) == ScoreRequest([1], [[2], [3, 4]])
    assert Written(["yes"], "eos") == Written(["yes"], "eos")


class Bytes:
    """A tokenizer that writes texts alike wherever they are."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()


class Joining(Bytes):
    """A tokenizer that writes an answer after a prompt otherwise than alone."""

    def join(self, prompt: str, answers: Sequence[str]) -> ScoreRequest:
        return ScoreRequest(self.encode_batch([prompt])[0], [[0] for _ in answers])


def test_an_answer_is_written_behind_the_prompt_as_its_tokenizer_says() -> None:
    prompt = EncodedPrompt("A:", [65, 58], 0)

    assert score_request(Bytes(), prompt, [" b"]) == ScoreRequest([65, 58], [[32, 98]])
    assert score_request(Joining(), prompt, [" b"]) == ScoreRequest([65, 58], [[0]])
