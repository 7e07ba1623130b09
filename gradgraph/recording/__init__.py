"""The parts of `record()`: what watches a program, the log that it writes, and its way into graphs."""
