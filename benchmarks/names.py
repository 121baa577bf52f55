"""Names used both in results and in plots."""

OURS = "llmds"
