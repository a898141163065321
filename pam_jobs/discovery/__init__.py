"""Discovery jobs, results and coverage."""
