"""From a run, or a program of one's own, to a quantized bundle that was measured before it is handed over."""
