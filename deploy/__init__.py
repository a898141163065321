"""Images, compose files and the lab of real targets."""
