"""The campaign: faults thrown at jobguard in real processes, and a judge who believes neither."""
