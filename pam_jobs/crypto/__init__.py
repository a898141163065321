"""AES-GCM, ECIES, P-256 and key wrapping: thin over the cryptography package."""
