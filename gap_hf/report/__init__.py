"""Pictures of what a run chose."""
