"""The collector: verifies what applications ship, keeps it in a ledger, watches it, and answers for it."""
