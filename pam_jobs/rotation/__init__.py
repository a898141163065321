"""Rotation settings, plans and policy: what to do; workers do it."""
