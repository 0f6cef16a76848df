"""The integrity monitor: what the collector notices about its streams, its deliveries and its own store, as findings.

`Watch` is the rules and knows neither threads nor files; `Watcher` feeds it with what was committed and with the time,
`Patroller` reads the store again and again. The committer waits for neither.
"""
