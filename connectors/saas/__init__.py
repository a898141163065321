"""Accounts of online services, each changed by a plugin."""
