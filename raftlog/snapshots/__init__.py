"""Images of the database between nodes, compaction of the log, and how a node whose database is lost heals itself."""
