"""Rotation of privileged credentials and discovery of infrastructure: the domain and the control plane."""
