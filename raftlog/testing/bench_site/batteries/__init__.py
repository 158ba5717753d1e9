"""What the benchmark of the batteries needs in a project: a command that draws, and a flag."""
