"""Receivers of the audit log, one module each."""
