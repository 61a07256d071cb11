"""Load tests of a server: requests at fixed times, independent of its answers."""
