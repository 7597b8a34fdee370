"""What the commands do, whichever framework computes: from the command line to the loop of `ms_bert.run`.

Of the half of ms_bert that imports no framework, this alone reads checkpoints by `conversion`.
"""
