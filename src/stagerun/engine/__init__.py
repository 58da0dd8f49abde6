"""Motion: actors, mailboxes, cancel scopes. trio's only home, besides the stores' drivers."""
