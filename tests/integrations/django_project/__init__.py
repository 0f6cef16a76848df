"""A Django project for the tests; its database is a file, which threads of the async handler share."""
