"""The operator's side: signs in, encrypts and decrypts here, and speaks to the router over HTTPS."""
