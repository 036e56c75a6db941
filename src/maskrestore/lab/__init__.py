"""The laboratory: where defenses are measured. The product never imports it."""
