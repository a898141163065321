"""HTTP interfaces over the services: KSM, vault, jobs, devices."""
