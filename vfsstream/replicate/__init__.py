"""The writer: from a live database to LTX files, and back."""
