"""Heap, LRU, sketch, admission and scheduler beside their peers."""
