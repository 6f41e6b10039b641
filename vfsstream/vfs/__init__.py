"""The reader: a SQLite VFS that serves pages from a replica."""
