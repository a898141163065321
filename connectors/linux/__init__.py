"""Linux over SSH."""
