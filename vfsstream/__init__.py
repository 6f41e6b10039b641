"""Query SQLite databases live from object storage, and replicate them there, in the LTX format."""

__version__ = "0.1.0"
__all__ = ["__version__"]
