"""Retention: which log a service's records go to, how long it is kept, what holds it, and how it goes.

`policy` and `plan` are pure; `holds` says what may not go, `expiry` takes a log away.
"""
