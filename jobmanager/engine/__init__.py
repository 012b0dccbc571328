"""Runs the attempts of jobs: claims them, keeps their leases, delivers halts and stops, and recovers lost jobs."""
