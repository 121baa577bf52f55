"""BM25 beside other text engines."""
