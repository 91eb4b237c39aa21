"""From outputs to results: tracks, zones, events, counters, and the sinks that take them."""
