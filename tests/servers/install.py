"""Install the storage servers of the test suite."""

if __name__ == "__main__":
    pass
