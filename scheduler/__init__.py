"""Beat: the due table, cron, and the simulation of both."""
