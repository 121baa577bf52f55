"""The bookkeeping of KV caches as files of version 1 have it, brought to today's."""
