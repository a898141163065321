"""Ciphertext store, folders, applications, devices, shares, candidate ledger, KSM endpoints."""
