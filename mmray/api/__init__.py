"""The Python API; `import mmray` has all names, and imports each at first use."""
