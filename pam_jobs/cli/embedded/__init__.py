"""Embedded mode: the whole system on one machine as supervised processes, with its state in one folder."""
