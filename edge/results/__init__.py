"""From model outputs to results: tracks, zones, events, counters, and the base class of sinks."""
