"""Ways of running a target and its pair: one Protocol, several machines."""
