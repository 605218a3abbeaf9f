"""What is measured on this machine: `python -m agent.bench --help`, one module a subcommand."""
