"""Import paths that people who come from EvSys bring along; everything here lives elsewhere."""
