"""Measurements side by side against Litestream; they print tables and draw plots, they are not tests."""
