"""What connects the engine to a queue; one subpackage per queue library."""
