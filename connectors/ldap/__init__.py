"""What the directories have in common: the connection, the names of entries, the meaning of answers."""
