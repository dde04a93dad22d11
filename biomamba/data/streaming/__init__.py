"""Training straight from the corpora: documents are read and tokenised while the model learns."""
