"""How much load a server bears: requests at times that are fixed beforehand, whatever it does."""
