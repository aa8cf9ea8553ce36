"""Token generators: everything that turns prompt ids into Orpheus' audio ids."""
