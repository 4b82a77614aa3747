"""The verbs of the command line: each file has `add_arguments(parser)`, `run(args)` and EXAMPLES."""
