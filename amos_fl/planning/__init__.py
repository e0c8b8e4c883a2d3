"""Plans from data: the fingerprint of training cases, and the plan that nnU-Net's rules make from it."""
