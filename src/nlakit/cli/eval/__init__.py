"""`nlakit eval`: one file a verb, or a few that are asked alike; what they share is in `common`."""
