"""SQL Server: logins, and users contained in a database."""
