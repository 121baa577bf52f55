"""The base of all structures: checks of arguments, files, growth, time, threads."""
