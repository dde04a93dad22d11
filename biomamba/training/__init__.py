"""The LightningModule, its optimizer, schedule and callbacks."""
