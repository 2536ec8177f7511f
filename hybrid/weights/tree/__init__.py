"""Tree search over completions: the search, critics, credit, and the two trainings that use it."""
