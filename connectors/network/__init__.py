"""Network devices over SSH."""
