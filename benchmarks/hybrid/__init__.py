"""Hybrid retrieval beside peers put together by hand."""
