"""KV caches beside other block managers."""
