"""The configuration: YAML file and URLs, one grammar for both."""
