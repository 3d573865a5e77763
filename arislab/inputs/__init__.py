"""What comes in from elsewhere: files of any kind to rows of the lake, each as it stood there.

``files`` and ``batch_files`` read, ``lake_rows`` makes rows of tables, ``account`` says what became of a file. Only
``importing``, which ``arislab import`` calls, writes.
"""
