"""One module a target; each does I/O and reports, and decides nothing."""
