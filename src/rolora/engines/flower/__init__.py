"""Rounds across machines on Flower: transport, site and process start-up.

Needs the extra ``rolora[flower]``. Nothing outside this package imports ``flwr``, and
:mod:`rolora.engines.flower.worker` and :mod:`rolora.engines.flower.client_app` import no torch, so
that a process which only forwards bytes starts quickly.
"""
