"""What programs in Python use; `import mmray` has all of it, and loads each when it is used first."""
