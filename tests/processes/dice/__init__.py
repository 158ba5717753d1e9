"""An app of which one command is not deterministic, on purpose."""
