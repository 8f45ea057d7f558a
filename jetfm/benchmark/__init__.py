"""The few-label benchmark: which jets, from how many labels, and who does how well.

``format`` is what a row's file says, ``jets`` the benchmark's jets and ``splits`` what others read
of them, ``collected`` makes rows of a finished study, ``own_model`` of a pre-trained model and
``submitted`` of scores by anybody's code, ``statistics`` ranks them, ``page`` writes the tables;
``adding`` is what the command calls.
"""
