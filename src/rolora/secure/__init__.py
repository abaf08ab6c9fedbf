"""The secure sum: the server learns what clients send together, and nothing of one of them.

Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017
(ePrint 2017/281), Figure 4, over all pairs of clients. Client u adds to its whole numbers
modulo 2^32 a mask of its own and one for each other client v, which v takes off again:

    ``y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv)   (mod 2^32)``

In four steps, in each of which a client is asked once and may drop out:

1. ``keys``: two public keys, and a commitment to ``b_u``.
2. ``shares``: told everybody's keys (the roster), it deals ``b_u`` and the secret behind its key of
   the masks to all, so that any `threshold` of them can put it together; sealed for each.
3. ``masked``: told what the others dealt it, it trains and sends ``y_u``.
4. ``opened``: told whose ``y`` came, it gives its share of ``b_v`` of those, and of the other
   secret of those that dropped out: never both of one client.

Every secret comes from the operating system's randomness and lives for one round: what comes out
depends on none of them, as the masks cancel exactly.

`party` is a client's half and `tally` the server's, `forms` what they say to each other, `fixed`
the numbers, `shamir` the sharing of secrets; what is cryptography's own is in `primitives` alone.
"""
