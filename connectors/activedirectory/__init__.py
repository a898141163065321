"""Active Directory: Windows and Samba domain controllers."""
