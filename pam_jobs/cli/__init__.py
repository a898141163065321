"""The pam command."""
