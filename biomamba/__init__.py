"""BioMamba: adapt Mamba2 language models to medicine."""

__version__ = "0.1.0"
