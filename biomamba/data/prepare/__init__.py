"""The prepare stage: raw shards are staged, decided on as a set, and written as token stores."""
