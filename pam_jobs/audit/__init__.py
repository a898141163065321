"""Event catalogue, log and SIEM sinks."""
