"""Do the frameworks agree? Every tensor of each against the oracle, pt_reference in float64, by one measure."""
