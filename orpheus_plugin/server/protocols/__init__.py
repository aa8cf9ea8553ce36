"""One module for each protocol that the server speaks."""
