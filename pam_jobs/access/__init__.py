"""Users, sign-in, tokens and enforcement policies."""
