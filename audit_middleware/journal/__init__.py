"""The journal: the local, crash-safe spool that holds every sealed line until a collector has it."""
