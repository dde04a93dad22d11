"""Pure metric functions and torchmetrics; no model, no data."""
