"""Tables, reports and plots of runs."""
