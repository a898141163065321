"""Kerberos 5 as a client: tickets from a domain controller, and sealed messages with a service."""
