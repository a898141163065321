"""Record types and their JSON, field access, schedules, complexity, password generation."""
