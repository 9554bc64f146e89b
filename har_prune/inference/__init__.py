"""From a recording to a timeline of activities."""
