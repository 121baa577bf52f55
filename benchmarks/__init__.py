"""llmds beside its peers, interleaved in one run: `python -m benchmarks NAME`."""
