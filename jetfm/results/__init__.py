"""What readers see of finished work: a page of all figures, the same for the repository, the map.

Also a figure alone, drawn by the cells of its notebook. Everything here shows what notebooks and
stages have left in files; nothing is computed.
"""
