"""The configuration: schema, loading with places, checks, origins. Nothing is imported here, so that a command pays only for what it needs."""
