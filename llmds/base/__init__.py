"""What every structure stands on: checks, files, growth, time, threads."""
