"""When a majority or a database is lost: recover, back up, restore, and the ways in and out of a cluster."""
