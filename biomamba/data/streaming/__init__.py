"""Train directly on raw corpora: documents are read, tokenised and mixed while the model trains."""
