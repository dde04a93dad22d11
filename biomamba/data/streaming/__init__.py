"""Training straight from the corpora: documents are read and tokenized while the model learns."""
