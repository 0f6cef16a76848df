"""Alerts: what the monitor finds is told to people and to the systems that wake them.

`Announcer` is the rules and knows neither threads nor networks; a `Worker` runs one sink, so that one that is dead or
slow holds up nobody: neither a commit, nor the monitor, nor another sink.
"""
