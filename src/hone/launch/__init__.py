"""Before a run: plan and doctor."""
