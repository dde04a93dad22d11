"""Find and load checkpoints of transformers: files only, no code of theirs.

Code that a repository brings along is never run, and weights are read from safetensors or, with
`weights_only`, from torch's files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from biomamba.model.formats.detection import describe_folder
from biomamba.model.formats.hub import CONFIG, locate
from biomamba.model.formats.tensor_files import WeightFiles, find_weights
from biomamba.runtime.errors import CheckpointError
from biomamba.runtime.input_files import FLAG, MIB, TEXT, Each, read_json
from biomamba.runtime.optional import import_optional

CAUSAL, SEQUENCE_TO_SEQUENCE, EXTRACTIVE = "causal", "sequence_to_sequence", "extractive"
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
TOKENIZER_FILES = (
    *_VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_BESIDE = (*TOKENIZER_FILES, "generation_config.json")
_SHOWN = 5


def import_transformers() -> ModuleType:
    """Return the module, quiet about what is said here.

    Raises:
        MissingDependencyError: It is not installed.
    """
    module = import_optional(
        "transformers", "a baseline (hf:...)", "pip install 'biomamba[baselines]'"
    )
    module.utils.logging.disable_progress_bar()
    return module


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint in the layout of transformers.

    Attributes:
        source: How the user named it.
        folder: Where it lies.
        config: The content of its config.json.
    """

    source: str
    folder: Path
    config: Mapping[str, Any]

    @classmethod
    def find(cls, source: str) -> "Pretrained":
        """Find a folder or a repository of the hub (`owner/name` or `owner/name@revision`).

        Raises:
            CheckpointError: There is none, or it has no readable config.json.
        """
        folder = locate(source, _BESIDE)
        path = folder / CONFIG
        try:
            shape = {"architectures": Each(TEXT, is_list=True), "is_encoder_decoder": FLAG}
            config = read_json(path, shape, max_bytes=MIB, error=CheckpointError)
        except FileNotFoundError:
            known = describe_folder(folder) or f"{CONFIG} is missing"
            raise CheckpointError(f"hf:{source}: {known}") from None
        return cls(source, folder, config)

    @property
    def kind(self) -> str:
        """What the architecture that config.json names is good for.

        Raises:
            CheckpointError: It neither continues texts nor marks answers.
        """
        names = list(self.config.get("architectures") or [])
        if any(name.endswith("ForQuestionAnswering") for name in names):
            return EXTRACTIVE
        if self.config.get("is_encoder_decoder"):
            return SEQUENCE_TO_SEQUENCE
        known = import_transformers().models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if set(names) & set(known.values()):
            return CAUSAL
        raise CheckpointError(
            f"hf:{self.source}: config.json names {names or 'no architecture'}; allowed are models "
            "that continue texts (...ForCausalLM, ...LMHeadModel), encoder-decoders "
            "(...ForConditionalGeneration) and extractive readers (...ForQuestionAnswering). A "
            "bare encoder has to be fine-tuned for one of these first"
        )

    @property
    def files(self) -> WeightFiles:
        """The weights.

        Raises:
            CheckpointError: There are none.
        """
        found = find_weights(self.folder)
        if found is None:
            raise CheckpointError(f"{self.folder}: holds no weights (model.safetensors)")
        return found

    def sha256(self) -> str:
        """Return the sha256 over the weights."""
        return self.files.digest()

    def load_model(self, auto_class: str, device: str) -> Any:
        """Return the model in float32, in evaluation mode.

        Raises:
            CheckpointError: Its code is not that of transformers, the files are damaged, or
                weights are missing that would be drawn at random.
        """
        _ = self.files
        try:
            model, info = getattr(import_transformers(), auto_class).from_pretrained(
                str(self.folder),
                dtype=torch.float32,
                trust_remote_code=False,
                weights_only=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # of many kinds, and all of them about these files
            raise CheckpointError(
                f"hf:{self.source}: transformers cannot load it: {error}. Code that a repository "
                "brings along is never run, and files that hold more than tensors are not read"
            ) from error
        drawn = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
        if drawn:
            more = f" and {len(drawn) - _SHOWN} more" if len(drawn) > _SHOWN else ""
            raise CheckpointError(
                f"hf:{self.source}: the weights lack {', '.join(drawn[:_SHOWN])}{more}, which "
                "would be drawn at random; give a checkpoint that was trained for this task"
            )
        return model.to(device).eval()

    def load_tokenizer(self) -> Any:
        """Return the tokenizer.

        Raises:
            CheckpointError: There is none that transformers can load.
        """
        # transformers makes an empty one where there is none.
        if not any((self.folder / name).is_file() for name in _VOCABULARIES):
            raise CheckpointError(
                f"hf:{self.source}: no tokenizer lies beside the weights; copy its files there "
                f"({', '.join(_VOCABULARIES)}: one of them is needed)"
            )
        try:
            return import_transformers().AutoTokenizer.from_pretrained(
                str(self.folder), trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # of many kinds, and all of them about these files
            raise CheckpointError(
                f"hf:{self.source}: transformers cannot load its tokenizer: {error}"
            ) from error
