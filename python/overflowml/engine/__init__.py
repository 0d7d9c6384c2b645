"""Moves weights under a torch module: what fits stays on the device, the rest passes through a few slots.

torch does the arithmetic and is never told: a module finds its parameters in place when it runs. Weights only ever
travel towards the device; one host copy of each is kept and never written.
"""
