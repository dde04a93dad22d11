"""Token stores: records and manifest, writing, reading, verification."""
