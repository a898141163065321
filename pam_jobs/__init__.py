"""Rotation of privileged credentials and discovery of infrastructure: the domain and the control plane."""

__version__ = "0.1.0"
