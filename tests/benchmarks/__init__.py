"""What gradgraph costs, side by side with the floor and with peers in one run: `python -m tests.benchmarks`."""
