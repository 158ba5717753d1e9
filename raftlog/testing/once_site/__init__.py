"""A project whose operations must each be done once: for the trial of exactly-once."""
