"""Windows over WinRM and SSH."""
