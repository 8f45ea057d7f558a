"""The machine: its cores, worker processes, the other processes of a training, and progress.

Who computes where, and how a person sees that it goes on.
Nothing here knows what is computed.
"""
