"""What outlives the process: trials, their artifacts. Knows nothing of devices."""
