"""Archives from a server: fetched in pieces, resumed, checked against published checksums.

JetClass and the Top Landscape, or single members of a remote tar.
What the files mean is not known here (`jetfm.data`).
"""
