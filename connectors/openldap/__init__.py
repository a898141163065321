"""OpenLDAP and other LDAP servers."""
