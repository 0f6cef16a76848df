"""Sealing: keys, the sealed line, and following a stream of them. Pure: no I/O but reading key files."""
