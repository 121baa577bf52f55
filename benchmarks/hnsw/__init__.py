"""HNSW beside other graph engines."""
