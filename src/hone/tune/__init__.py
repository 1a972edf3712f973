"""`hone tune`: a search over settings, each trial the real command in a process of its own."""
