"""Names that records and pictures share."""

OURS = "llmds"
