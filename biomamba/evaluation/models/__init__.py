"""Models of transformers behind the protocol of answer models: baselines on equal terms."""
