"""Models whose rows are sensitive, and one that is not."""
