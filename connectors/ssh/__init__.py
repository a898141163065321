"""SSH, for every connector that speaks it."""
