"""Who somebody is: accounts of several providers, and the tokens that they are told by."""
