"""The program: `python -m namemlp fit|validate|test|predict|lr_find|sample|plot`."""
