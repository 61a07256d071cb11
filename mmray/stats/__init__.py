"""How sure a share is: exact bounds where trials are independent, intervals where records come in groups."""
