"""Jobs and attempts: states, leases, epochs, submission, outbox, signing, explanation."""
