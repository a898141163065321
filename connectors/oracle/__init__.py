"""Oracle Database, by the thin driver."""
