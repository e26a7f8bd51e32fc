"""Bounds written out from the papers in plain torch: the programs, Pyro and pyro_priors have no part in them.

Each file has ``elbo_by_hand(state, x, condition, noise, kl_weights, beta, analytic)``: the loss, minus the
weighted bound in nats per datum, as a function of the tensors of ``pair.state_dict()``.
"""
