"""macOS over SSH."""
