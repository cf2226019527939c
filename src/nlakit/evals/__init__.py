"""One metric a file, pure where it can be, and the report that puts them together."""
