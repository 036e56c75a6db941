"""One cell of a table: run it, count, record."""
