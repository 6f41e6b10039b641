"""The storage servers that the tests run against."""
