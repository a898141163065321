"""Numbers for Prometheus, read from the database: no process has to be asked, and none keeps a count that it can lose."""
