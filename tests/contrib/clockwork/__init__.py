"""A project with a job a second, whose tasks workers run."""
