"""Bad input for the whole command line: `python -m benchmarks.fuzz_cli`."""
