"""Reading commands: the status of a study, and the check of its store."""
